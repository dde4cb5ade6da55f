#include "format/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#if !defined(__cpp_lib_to_chars) && !defined(__EMSCRIPTEN__) && !defined(__wasi__)
#include <clocale>
#if defined(__APPLE__)
#include <xlocale.h>
#endif
#endif

namespace bhvit {
namespace {

#if defined(BHVIT_WEB)  // JavaScript has a parser, correctly rounded
extern "C" __attribute__((import_module("env"), import_name("bhvit_number"))) double bhvit_number(const char* text,
                                                                                                  size_t size);
#endif

// The number whose JSON text is [begin, end), whatever the locale of the process is; not finite if it is too large.
double to_double(const char* begin, const char* end) {
#if defined(__cpp_lib_to_chars)
  double value = 0;
  return std::from_chars(begin, end, value).ec == std::errc() ? value : NAN;
#elif defined(BHVIT_WEB)
  return bhvit_number(begin, static_cast<size_t>(end - begin));
#elif defined(__EMSCRIPTEN__) || defined(__wasi__)
  return std::strtod(std::string(begin, end).c_str(), nullptr);  // knows one locale only
#else
  static const locale_t kPlain = newlocale(LC_ALL_MASK, "C", nullptr);
  return strtod_l(std::string(begin, end).c_str(), nullptr, kPlain);
#endif
}

// The first byte that is no UTF-8, or the size of the text.
size_t find_no_utf8(std::string_view text) {
  const auto byte = [&](size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
  for (size_t at = 0; at < text.size();) {
    const unsigned first = byte(at);
    if (first < 0x80) {
      at++;
      continue;
    }
    const size_t more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    unsigned code = first & (0x3fu >> more);
    bool right = first >= 0xc2 && first <= 0xf4;
    for (size_t i = 1; i <= more; i++) {
      right = right && (byte(at + i) & 0xc0) == 0x80;
      code = code << 6 | (byte(at + i) & 0x3f);
    }
    constexpr unsigned kLeast[] = {0, 0x80, 0x800, 0x10000};
    if (!right || code < kLeast[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return at;
    at += more + 1;
  }
  return text.size();
}

class Parser {
 public:
  Parser(std::string_view text, long max_values) : text_(text), max_values_(max_values) {}

  Json whole() {
    at_ = find_no_utf8(text_);
    if (at_ < text_.size()) fail("no UTF-8");
    at_ = 0;
    Json value = read_value(0);
    skip_space();
    if (at_ != text_.size()) fail("text after the end");
    return value;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw JsonError(std::string(what) + " at byte " + std::to_string(at_));
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  char next() {
    if (at_ >= text_.size()) fail("unexpected end");
    return text_[at_++];
  }

  void expect(char wanted) {
    if (next() != wanted) {
      at_--;
      fail("unexpected character");
    }
  }

  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) {
      at_++;
    }
  }

  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json read_value(int depth) {
    if (depth > kMaxJsonDepth) fail("nested too deeply");
    if (++values_ > max_values_) fail("too many values");
    skip_space();
    Json value;
    switch (peek()) {
      case '{': read_object(value, depth); break;
      case '[': read_array(value, depth); break;
      case '"':
        value.kind = Json::Kind::string;
        value.string = read_string();
        break;
      case 't':
      case 'f':
        value.kind = Json::Kind::boolean;
        value.boolean = peek() == 't';
        if (!take_word(value.boolean ? "true" : "false")) fail("unexpected character");
        break;
      case 'n':
        if (!take_word("null")) fail("unexpected character");
        break;
      default: read_number(value);
    }
    return value;
  }

  void read_object(Json& value, int depth) {
    value.kind = Json::Kind::object;
    expect('{');
    skip_space();
    if (peek() == '}') {
      at_++;
      return;
    }
    for (;;) {
      skip_space();
      std::string key = read_string();
      skip_space();
      expect(':');
      Json member = read_value(depth + 1);
      value.members.emplace_back(std::move(key), std::move(member));
      skip_space();
      if (peek() != ',') break;
      at_++;
    }
    expect('}');
    check_keys(value);
  }

  // Sorted, not hashed: nobody can choose keys that take longer.
  void check_keys(const Json& object) const {
    std::vector<std::string_view> keys;
    keys.reserve(object.members.size());
    for (const auto& member : object.members) keys.push_back(member.first);
    std::sort(keys.begin(), keys.end());
    if (std::adjacent_find(keys.begin(), keys.end()) != keys.end()) fail("repeated key in the object before");
  }

  void read_array(Json& value, int depth) {
    value.kind = Json::Kind::array;
    expect('[');
    skip_space();
    if (peek() == ']') {
      at_++;
      return;
    }
    for (;;) {
      value.items.push_back(read_value(depth + 1));
      skip_space();
      if (peek() != ',') break;
      at_++;
    }
    expect(']');
  }

  void read_digits() {
    if (peek() < '0' || peek() > '9') fail("unexpected character");
    while (peek() >= '0' && peek() <= '9') at_++;
  }

  void read_number(Json& value) {
    const size_t start = at_;
    bool whole = true;
    if (peek() == '-') at_++;
    if (peek() == '0') {
      at_++;
    } else {
      read_digits();
    }
    if (peek() == '.') {
      whole = false;
      at_++;
      read_digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      at_++;
      if (peek() == '+' || peek() == '-') at_++;
      read_digits();
    }
    const std::string_view text = text_.substr(start, at_ - start);
    if (text.size() > kMaxJsonNumber) fail("a number is too long");
    if (whole && text.size() <= 18 && text != "-0") {
      value.kind = Json::Kind::integer;
      std::from_chars(text.data(), text.data() + text.size(), value.integer);
      return;
    }
    value.kind = Json::Kind::real;
    value.real = to_double(text.data(), text.data() + text.size());
    const bool zero = text.substr(0, text.find_first_of("eE")).find_first_of("123456789") == std::string_view::npos;
    if (!std::isfinite(value.real) || (value.real == 0 && !zero)) fail("a number is out of range");
  }

  unsigned read_hex4() {
    unsigned code = 0;
    for (int i = 0; i < 4; i++) {
      const char c = next();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) fail("a \\u escape without four hexadecimal digits");
      code = code * 16 + static_cast<unsigned>(digit);
    }
    return code;
  }

  static void append_utf8(std::string& out, unsigned code) {
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xc0 | code >> 6);
      out += static_cast<char>(0x80 | (code & 63));
    } else if (code < 0x10000) {
      out += static_cast<char>(0xe0 | code >> 12);
      out += static_cast<char>(0x80 | (code >> 6 & 63));
      out += static_cast<char>(0x80 | (code & 63));
    } else {
      out += static_cast<char>(0xf0 | code >> 18);
      out += static_cast<char>(0x80 | (code >> 12 & 63));
      out += static_cast<char>(0x80 | (code >> 6 & 63));
      out += static_cast<char>(0x80 | (code & 63));
    }
  }

  std::string read_string() {
    expect('"');
    std::string out;
    for (;;) {
      const char c = next();
      if (c == '"') return out;
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
      if (c != '\\') {
        out += c;
        continue;
      }
      switch (next()) {
        case '"': out += '"'; break;
        case '\\': out += '\\'; break;
        case '/': out += '/'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'u': {
          unsigned code = read_hex4();
          if (code >= 0xd800 && code < 0xdc00 && take_word("\\u")) {
            const unsigned low = read_hex4();
            if (low < 0xdc00 || low > 0xdfff) fail("half of a surrogate pair");
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
          } else if (code >= 0xd800 && code < 0xe000) {
            fail("half of a surrogate pair");
          }
          append_utf8(out, code);
          break;
        }
        default: fail("an unknown escape");
      }
    }
  }

  std::string_view text_;
  size_t at_ = 0;
  long values_ = 0;
  const long max_values_;
};

}  // namespace

Json::Json() = default;
Json::Json(const Json&) = default;
Json::Json(Json&&) noexcept = default;
Json& Json::operator=(const Json&) = default;
Json& Json::operator=(Json&&) noexcept = default;
Json::~Json() = default;

const Json* Json::find(std::string_view key) const {
  for (const auto& [name, value] : members) {
    if (name == key) return &value;
  }
  return nullptr;
}

Json parse_json(std::string_view text, long max_values) { return Parser(text, max_values).whole(); }

}  // namespace bhvit
