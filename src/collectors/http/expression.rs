//! JMESPath over an answer, without ever rounding a number.
//!
//! The library keeps numbers as 64-bit integers and floats, which is enough to compare them but not to bill them. So the
//! answer's own text of every number that such a type does not hold exactly is kept beside it, and what an expression
//! yields is looked up there: a number that is neither in the answer nor whole was computed, and is refused.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock};

use jmespath::functions::{ArgumentType, CustomFunction, Function, Signature};
use jmespath::{Context, ErrorReason, Expression, JmespathError, Rcvar, Runtime, Variable};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::collectors::characters::{NO_CHARACTER, text_of};
use crate::wire::words::clean;

/// Objects and lists within each other. No API nests deeper, and the depth of the work must have an end.
const DEEPEST: usize = 64;

/// Functions of the library that compute in floats.
const ROUNDING: [&str; 6] = ["abs", "avg", "ceil", "floor", "sum", "to_number"];

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = Runtime::new();
    runtime.register_builtin_functions();
    for name in ROUNDING {
        runtime.register_function(name, Box::new(refuse(name)));
    }
    runtime.register_function("to_string", Box::new(to_string as fn(&[Rcvar], &mut Context<'_>) -> _));
    let object = Signature::new(vec![ArgumentType::Object], None);
    runtime.register_function("items", Box::new(CustomFunction::new(object, Box::new(items))));
    runtime
});

type Found = Result<Rcvar, JmespathError>;

fn failed(context: &Context<'_>, words: String) -> JmespathError {
    JmespathError::from_ctx(context, ErrorReason::Parse(words))
}

fn refuse(name: &'static str) -> impl Function {
    move |_: &[Rcvar], context: &mut Context<'_>| -> Found {
        Err(failed(
            context,
            format!("`{name}` would round: let the meter compute (factor), or add up several readings"),
        ))
    }
}

/// The standard's, but for numbers that it would write otherwise than the answer does.
fn to_string(arguments: &[Rcvar], context: &mut Context<'_>) -> Found {
    match arguments {
        [value] => match value.as_ref() {
            Variable::String(_) => Ok(value.clone()),
            Variable::Number(number) if number.is_f64() => {
                Err(failed(context, "`to_string` of a fraction would round".to_owned()))
            }
            other => Ok(Rcvar::new(Variable::String(other.to_string()))),
        },
        _ => Err(failed(context, "`to_string` takes one value".to_owned())),
    }
}

/// The pairs of an object, each as a list of name and value: `items()` as the JMESPath community defines it (JEP 13).
fn items(arguments: &[Rcvar], _: &mut Context<'_>) -> Found {
    let object = arguments.first().and_then(|argument| argument.as_object());
    let pair = |(name, value): (&String, &Rcvar)| {
        Rcvar::new(Variable::Array(vec![Rcvar::new(Variable::String(name.clone())), value.clone()]))
    };
    Ok(Rcvar::new(Variable::Array(object.into_iter().flatten().map(pair).collect())))
}

/// An expression of the configuration file.
#[derive(Clone)]
pub(super) struct Expr {
    text: String,
    compiled: Arc<Expression<'static>>,
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expr({})", self.text)
    }
}

impl Expr {
    pub(super) fn parse(text: &str) -> Result<Expr, String> {
        let compiled = RUNTIME.compile(text).map_err(|error| format!("`{text}` {}", words(&error)))?;
        Ok(Expr { text: text.to_owned(), compiled: Arc::new(compiled) })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

fn words(error: &JmespathError) -> String {
    let reason = match &error.reason {
        ErrorReason::Parse(words) => words.clone(),
        ErrorReason::Runtime(error) => error.to_string(),
    };
    format!("at character {}: {}", error.offset + 1, clean(&reason))
}

/// An answer that expressions can look into.
#[derive(Debug)]
pub(super) struct Document {
    root: Rcvar,
    /// Where a number is that the library does not hold exactly, and its text. The tree is never changed, and what an
    /// expression yields shares its parts, so that an address is a number's name.
    exact: HashMap<usize, Box<str>>,
    /// Where something is that can't be read, and why. It is an error to whoever asks for it, and nobody else's business.
    odd: HashMap<usize, String>,
    /// What was replaced. It is kept, so that no part of the tree gets its address.
    replaced: Vec<Rcvar>,
}

/// What expressions see: names, each with a part of an answer or a text.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope(BTreeMap<String, Rcvar>);

impl Scope {
    pub(super) fn with(&self, name: &str, value: Rcvar) -> Scope {
        let mut scope = self.clone();
        scope.0.insert(name.to_owned(), value);
        scope
    }
}

/// What an expression yielded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Nothing,
    Flag(bool),
    /// As the answer wrote it.
    Number(String),
    Text(String),
    /// A list or an object: neither a value nor a text.
    Other(&'static str),
}

pub(super) fn text(text: &str) -> Rcvar {
    Rcvar::new(Variable::String(text.to_owned()))
}

pub(super) fn object(pairs: impl IntoIterator<Item = (String, String)>) -> Rcvar {
    let pairs = pairs.into_iter().map(|(name, value)| (name, text(&value)));
    Rcvar::new(Variable::Object(pairs.collect()))
}

impl Document {
    /// Reads JSON. The error is for people, without the answer's words. What no expression reads may be as odd as it likes:
    /// half a surrogate pair in somebody's name, bytes that are not UTF-8, a number beyond all numbers.
    pub(super) fn parse(body: &[u8]) -> Result<Document, serde_json::Error> {
        let text = text_of(body);
        let raw: &RawValue = serde_json::from_str(&text)?;
        let mut document = Document {
            root: Rcvar::new(Variable::Null),
            exact: HashMap::new(),
            odd: HashMap::new(),
            replaced: Vec::new(),
        };
        document.root = document.build(raw.get(), DEEPEST)?;
        match document.odd.get(&address(&document.root)) {
            Some(why) => Err(serde_json::Error::custom(why)),
            None => Ok(document),
        }
    }

    pub(super) fn root(&self) -> Rcvar {
        self.root.clone()
    }

    fn find(&self, expr: &Expr, scope: &Scope) -> Result<Rcvar, String> {
        let scope = Rcvar::new(Variable::Object(scope.0.clone()));
        let mut context = Context::new(&expr.text, &RUNTIME);
        jmespath::interpret(&scope, expr.compiled.as_ast(), &mut context)
            .map_err(|error| format!("`{}` {}", expr.text, words(&error)))
    }

    /// One value.
    pub(super) fn value(&self, expr: &Expr, scope: &Scope) -> Result<Value, String> {
        let found = self.find(expr, scope)?;
        if let Some(why) = self.odd.get(&address(&found)) {
            return Err(format!("`{}` yields what can't be read: {why}", expr.text));
        }
        Ok(match found.as_ref() {
            Variable::Null => Value::Nothing,
            Variable::Bool(flag) => Value::Flag(*flag),
            // Two names that differ in such characters alone must not become one.
            Variable::String(text) if text.contains(NO_CHARACTER) => {
                return Err(format!(
                    "`{}` yields a text with what is no character in it (half a surrogate pair, or bytes that are not UTF-8)",
                    expr.text
                ));
            }
            Variable::String(text) => Value::Text(text.clone()),
            Variable::Array(_) => Value::Other("a list"),
            Variable::Object(_) => Value::Other("an object"),
            Variable::Expref(_) => Value::Other("an expression"),
            Variable::Number(number) => match self.exact.get(&address(&found)) {
                Some(text) => Value::Number(text.to_string()),
                None if number.is_f64() => {
                    return Err(format!(
                        "`{}` yields {number}, which is not in the answer as it is",
                        expr.text
                    ));
                }
                None => Value::Number(number.to_string()),
            },
        })
    }

    /// A list.
    pub(super) fn list(&self, expr: &Expr, scope: &Scope) -> Result<Vec<Rcvar>, String> {
        let found = self.find(expr, scope)?;
        match found.as_ref() {
            Variable::Array(items) => Ok(items.clone()),
            Variable::Null => Err(format!("`{}` yields nothing where a list was expected", expr.text)),
            other => Err(format!(
                "`{}` yields a value ({}) where a list was expected",
                expr.text,
                other.get_type()
            )),
        }
    }
}

fn address(value: &Rcvar) -> usize {
    Arc::as_ptr(value) as usize
}

impl Document {
    fn build(&mut self, json: &str, depth: usize) -> Result<Rcvar, serde_json::Error> {
        let Some(depth) = depth.checked_sub(1) else {
            return Ok(self.odd(format!("objects and lists within each other, more than {DEEPEST} deep")));
        };
        let variable = match json.as_bytes().first() {
            Some(b'{') => {
                let Pairs(pairs) = serde_json::from_str(json)?;
                let mut object: BTreeMap<String, Rcvar> = BTreeMap::new();
                for (name, value) in pairs {
                    let value = match object.contains_key(&name) {
                        true => self.odd(format!("key `{}` is there twice", clean(&name))),
                        false => self.build(value.get(), depth)?,
                    };
                    self.replaced.extend(object.insert(name, value));
                }
                Variable::Object(object)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(json)?;
                let items = items.into_iter().map(|item| self.build(item.get(), depth));
                Variable::Array(items.collect::<Result<_, _>>()?)
            }
            Some(b'-' | b'0'..=b'9') => {
                // One that no float holds is compared as the largest that there is.
                let number = serde_json::from_str(json).ok();
                let number: serde_json::Number = number.unwrap_or_else(|| u64::MAX.into());
                let held = !number.is_f64() && number.to_string() == json;
                let number = Rcvar::new(Variable::Number(number));
                if !held {
                    self.exact.insert(address(&number), json.into());
                }
                return Ok(number);
            }
            Some(b'"') => match serde_json::from_str(json) {
                Ok(text) => Variable::String(text),
                Err(error) => return Ok(self.odd(error.to_string())),
            },
            Some(b't') => Variable::Bool(true),
            Some(b'f') => Variable::Bool(false),
            _ => Variable::Null,
        };
        Ok(Rcvar::new(variable))
    }

    /// Stands for what can't be read. A text, so that no expression takes it for nothing.
    fn odd(&mut self, why: String) -> Rcvar {
        let value = Rcvar::new(Variable::String(NO_CHARACTER.to_string()));
        self.odd.insert(address(&value), why);
        value
    }
}

/// The pairs of an object, whose values are left as they are written.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry::<String, &'de RawValue>()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

#[cfg(test)]
mod tests;
