#include "format/json.h"

#include <cstdlib>
#include <unordered_set>

namespace bhvit {
namespace {

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json whole() {
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
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) {
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
    if (++values_ > kMaxJsonValues) fail("too many values");
    skip_space();
    Json value;
    switch (peek()) {
      case '{':
        read_object(value, depth);
        break;
      case '[':
        read_array(value, depth);
        break;
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
      default:
        read_number(value);
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
    std::unordered_set<std::string> seen;
    for (;;) {
      skip_space();
      std::string key = read_string();
      if (!seen.insert(key).second) fail("repeated key");
      skip_space();
      expect(':');
      Json member = read_value(depth + 1);
      value.members.emplace_back(std::move(key), std::move(member));
      skip_space();
      if (peek() != ',') break;
      at_++;
    }
    expect('}');
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
    const std::string text(text_.substr(start, at_ - start));
    if (text.size() > 400) fail("a number is too long");
    if (whole && text.size() <= 18) {
      value.kind = Json::Kind::integer;
      value.integer = std::strtoll(text.c_str(), nullptr, 10);
    } else {
      value.kind = Json::Kind::real;
      value.real = std::strtod(text.c_str(), nullptr);
    }
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
        default:
          fail("an unknown escape");
      }
    }
  }

  std::string_view text_;
  size_t at_ = 0;
  long values_ = 0;
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

Json parse_json(std::string_view text) { return Parser(text).whole(); }

}  // namespace bhvit
