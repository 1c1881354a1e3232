//! Request bodies as the server's own JSON reader sees them.
//!
//! A number keeps the text it was written with, because the decimals of an amount are judged from that text
//! (A §1: `0.30000000000000004` is refused); a string remembers a lone surrogate, which Rust's strings cannot
//! hold. This never writes JSON: answers are made with `serde_json`.

/// One parsed value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    /// The literal, untouched.
    Number(String),
    Text(Text),
    List(Vec<Json>),
    /// In the order written; of a key given twice, `get` takes the last.
    Object(Vec<(String, Json)>),
}

/// A string, and the first lone surrogate in it (replaced by U+FFFD in `value`).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Text {
    pub(crate) value: String,
    pub(crate) surrogate: Option<u32>,
}

impl Json {
    pub(crate) fn text(value: impl Into<String>) -> Self {
        Self::Text(Text { value: value.into(), surrogate: None })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Self::Object(fields) => fields.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The server's word for the type, which its refusals quote.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "NoneType",
            Self::Bool(_) => "bool",
            Self::Number(n) if n.contains(['.', 'e', 'E']) => "float",
            Self::Number(_) => "int",
            Self::Text(_) => "str",
            Self::List(_) => "list",
            Self::Object(_) => "dict",
        }
    }

    /// The value as the server writes it into a message.
    pub(crate) fn display(&self) -> String {
        match self {
            Self::Null => "None".into(),
            Self::Bool(true) => "True".into(),
            Self::Bool(false) => "False".into(),
            Self::Number(n) => n.clone(),
            Self::Text(t) => t.value.clone(),
            Self::List(items) => {
                format!("[{}]", items.iter().map(Self::quoted).collect::<Vec<_>>().join(", "))
            }
            Self::Object(fields) => {
                let inner: Vec<_> = fields.iter().map(|(k, v)| format!("'{k}': {}", v.quoted())).collect();
                format!("{{{}}}", inner.join(", "))
            }
        }
    }

    fn quoted(&self) -> String {
        match self {
            Self::Text(t) => format!("'{}'", t.value),
            other => other.display(),
        }
    }
}

/// Parses a whole body; the error is what stands after `JSON parse error - `.
pub(crate) fn parse(bytes: &[u8]) -> Result<Json, String> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            let byte = bytes.get(at).copied().unwrap_or_default();
            return Err(format!(
                "'utf-8' codec can't decode byte 0x{byte:02x} in position {at}: invalid start byte"
            ));
        }
    };
    if text.starts_with('\u{feff}') {
        return Err("Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)".into());
    }
    let mut reader = Reader { text, at: 0, depth: 0 };
    reader.space();
    let value = reader.value()?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.complaint("Extra data", reader.at));
    }
    Ok(value)
}

/// Deeper nesting than this is no usage report; the bound keeps the stack safe.
const DEPTH: usize = 200;
/// The longest integer that the server's language converts.
const INTEGER_DIGITS: usize = 4300;

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn complaint(&self, what: &str, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("{what}: line {line} column {column} (char {})", before.chars().count())
    }

    fn value(&mut self) -> Result<Json, String> {
        if self.depth > DEPTH {
            return Err("maximum recursion depth exceeded while decoding a JSON object".into());
        }
        for (word, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))]
        {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        for word in ["NaN", "Infinity", "-Infinity"] {
            if self.rest().starts_with(word) {
                return Err(format!("Out of range float values are not JSON compliant: {word}"));
            }
        }
        match self.peek() {
            Some(b'"') => Ok(Json::Text(self.string()?)),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::list),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.complaint("Expecting value", self.at)),
        }
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Result<Json, String>) -> Result<Json, String> {
        self.depth += 1;
        self.at += 1;
        let value = inner(self);
        self.depth -= 1;
        value
    }

    fn list(&mut self) -> Result<Json, String> {
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::List(items));
        }
        loop {
            self.space();
            items.push(self.value()?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Json::List(items));
                }
                _ => return Err(self.complaint("Expecting ',' delimiter", self.at)),
            }
        }
    }

    fn object(&mut self) -> Result<Json, String> {
        let mut fields = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(fields));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.complaint("Expecting property name enclosed in double quotes", self.at));
            }
            let key = self.string()?.value;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.complaint("Expecting ':' delimiter", self.at));
            }
            self.at += 1;
            self.space();
            fields.push((key, self.value()?));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Json::Object(fields));
                }
                _ => return Err(self.complaint("Expecting ',' delimiter", self.at)),
            }
        }
    }

    fn number(&mut self) -> Result<Json, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let whole = self.digits();
        if whole == 0 {
            return Err(self.complaint("Expecting value", start));
        }
        // A leading zero ends the number; what follows is then extra data or a missing comma.
        if whole > 1 && self.text.as_bytes().get(self.at - whole) == Some(&b'0') {
            self.at = self.at - whole + 1;
            return Ok(Json::Number(self.text.get(start..self.at).unwrap_or_default().into()));
        }
        let mut integer = true;
        if self.peek() == Some(b'.') {
            let dot = self.at;
            self.at += 1;
            if self.digits() == 0 {
                self.at = dot;
            } else {
                integer = false;
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            let mark = self.at;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                self.at = mark;
            } else {
                integer = false;
            }
        }
        if integer && whole > INTEGER_DIGITS {
            return Err(format!(
                "Exceeds the limit ({INTEGER_DIGITS} digits) for integer string conversion: value has {whole} \
                 digits; use sys.set_int_max_str_digits() to increase the limit"
            ));
        }
        Ok(Json::Number(self.text.get(start..self.at).unwrap_or_default().into()))
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn string(&mut self) -> Result<Text, String> {
        let start = self.at;
        self.at += 1;
        let mut text = Text::default();
        loop {
            let Some(c) = self.rest().chars().next() else {
                return Err(self.complaint("Unterminated string starting at", start));
            };
            match c {
                '"' => {
                    self.at += 1;
                    return Ok(text);
                }
                '\\' => self.escape(start, &mut text)?,
                c if u32::from(c) < 0x20 => {
                    return Err(self.complaint("Invalid control character at", self.at));
                }
                c => {
                    text.value.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self, start: usize, text: &mut Text) -> Result<(), String> {
        let at = self.at;
        self.at += 1;
        let Some(letter) = self.peek() else {
            return Err(self.complaint("Unterminated string starting at", start));
        };
        self.at += 1;
        let plain = match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex(at)?;
                if (0xd800..0xdc00).contains(&high) && self.rest().starts_with("\\u") {
                    let mark = self.at;
                    self.at += 2;
                    let low = self.hex(mark)?;
                    if (0xdc00..0xe000).contains(&low) {
                        let joined = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                        text.value.push(char::from_u32(joined).unwrap_or('\u{fffd}'));
                        return Ok(());
                    }
                    self.at = mark;
                }
                char::from_u32(high).unwrap_or_else(|| {
                    text.surrogate.get_or_insert(high);
                    '\u{fffd}'
                })
            }
            _ => return Err(self.complaint("Invalid \\escape", at)),
        };
        text.value.push(plain);
        Ok(())
    }

    fn hex(&mut self, at: usize) -> Result<u32, String> {
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = digits.and_then(|d| u32::from_str_radix(d, 16).ok());
        self.at += 4;
        value.ok_or_else(|| self.complaint("Invalid \\uXXXX escape", at))
    }
}
