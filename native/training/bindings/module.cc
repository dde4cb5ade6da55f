// Python bindings of the fused training kernels: tensors in, filled by name, nothing out.
//
// Every size comes from a tensor's shape, and every other tensor is compared with it before a kernel runs. Types are in
// src/bhvit/_training.pyi; src/bhvit/models/fused calls these functions.

#include "training/bindings/grids.h"
#include "training/bindings/units.h"
#include "training/bindings/weights.h"
#include "training/dispatch.h"

using namespace bhvit::training;

namespace {

// Never freed: Python may call while it ends.
PyObject* g_to_dlpack = nullptr;

}  // namespace

bool nb::detail::type_caster<Operand>::from_python(handle source, uint32_t, cleanup_list* cleanup) noexcept {
  if (source.is_none()) return false;
  PyObject* capsule = PyObject_CallFunctionObjArgs(g_to_dlpack, source.ptr(), nullptr);
  if (!capsule) {  // an operand without memory: the check that names it refuses it
    PyErr_Clear();
    value = Operand();
    return true;
  }
  make_caster<ndarray<>> caster;
  const bool taken = caster.from_python(capsule, 0, cleanup);
  Py_DECREF(capsule);
  if (taken) value = Operand(caster.operator cast_t<ndarray<>>());
  return taken;
}

namespace {

// Every function for one float type.
template <class T>
void bind(nb::module_ module, const Table<T>& kernels) {
  module.attr("multiplies_signs") = kernels.sign_products != nullptr;
  const Binder<T> to{module, kernels};
  bind_norms(to);
  bind_signs(to);
  bind_weights(to);
  bind_units(to);
  bind_grids(to);
  bind_attention(to);
}

}  // namespace

NB_MODULE(_training, m) {
  m.doc() = "Fused kernels of a training step on a CPU, called by bhvit.models.fused.";
  // Not Tensor.__dlpack__, which is written in Python and takes ten times as long.
  g_to_dlpack = nb::module_::import_("torch.utils.dlpack").attr("to_dlpack").inc_ref().ptr();
  nb::dict found;
  for (const IsaKernels& kernels : available_kernels()) {
    nb::module_ to = m.def_submodule(kernels.name);
    found[kernels.name] = to;
    bind(to.def_submodule("float32"), *kernels.floats);
    bind(to.def_submodule("float64"), *kernels.doubles);
  }
  m.attr("isas") = found;  // the fastest first
}
