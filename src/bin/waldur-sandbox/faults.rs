//! Faults on request: what a proxy, a network or a dying worker does to a call, before or after the server has
//! committed it.
//!
//! A fault is chosen by the request alone and takes the first that matches; it never looks into the world.

use serde::Deserialize;
use serde_json::Value;

use crate::answer::Answer;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum When {
    /// The server never sees the call.
    #[default]
    Before,
    /// The server has done what was asked; only its answer suffers.
    After,
    /// The call is on its way still when its answer is given up: it is processed when `POST /sandbox/late` says so.
    Late,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    Answer(Answer),
    /// The connection ends without a word.
    Drop,
    /// No answer until the faults are cleared or the time has passed; then as if nothing had been.
    Hang(Option<u64>),
    /// Half an answer, then the connection ends.
    Truncate,
}

#[derive(Debug)]
pub(crate) struct Fault {
    method: Option<String>,
    path: Option<String>,
    body: Option<String>,
    when: When,
    action: Action,
    /// How often still; `None`: always.
    times: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Faults {
    faults: Vec<FaultSpec>,
}

#[derive(Debug, Deserialize)]
struct FaultSpec {
    #[serde(default, rename = "match")]
    matching: Match,
    #[serde(default)]
    when: When,
    action: ActionSpec,
    times: Option<Value>,
    ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Match {
    method: Option<String>,
    path: Option<String>,
    body: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ActionSpec {
    Word(String),
    Answer {
        status: u16,
        #[serde(default)]
        body: Value,
        #[serde(default)]
        headers: serde_json::Map<String, Value>,
    },
    Hang {
        hang: u64,
    },
}

impl Faults {
    pub(crate) fn build(self) -> Result<Vec<Fault>, String> {
        self.faults.into_iter().map(FaultSpec::build).collect()
    }
}

impl FaultSpec {
    fn build(self) -> Result<Fault, String> {
        let action = match self.action {
            ActionSpec::Word(word) => match word.as_str() {
                "drop" => Action::Drop,
                "hang" => Action::Hang(self.ms),
                "truncate" => Action::Truncate,
                other => return Err(format!("unknown action {other}")),
            },
            ActionSpec::Hang { hang } => Action::Hang(Some(hang)),
            ActionSpec::Answer { status, body, headers } => {
                if !(200..=599).contains(&status) {
                    return Err(format!("a fault cannot answer {status}"));
                }
                let mut answer = Answer { status, headers: Vec::new(), body: plain(&body).into_bytes() };
                answer.headers.extend(headers.iter().map(|(name, value)| (name.clone(), plain(value))));
                Action::Answer(answer)
            }
        };
        let times = match self.times {
            None | Some(Value::Null) => None,
            Some(Value::String(word)) if word == "unlimited" => None,
            Some(Value::Number(n)) if n.is_u64() => n.as_u64(),
            Some(other) => return Err(format!("times: {other}")),
        };
        let Match { method, path, body } = self.matching;
        Ok(Fault { method, path, body, when: self.when, action, times })
    }
}

/// A text as it is, anything else as JSON, nothing as nothing.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The first fault that is meant for a request, counted down.
pub(crate) fn take(faults: &mut [Fault], when: When, method: &str, path: &str, body: &str) -> Option<Action> {
    let contains =
        |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|part| text.contains(part.as_str()));
    let fault = faults.iter_mut().find(|fault| {
        fault.when == when
            && fault.times != Some(0)
            && fault.method.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && contains(&fault.path, path)
            && contains(&fault.body, body)
    })?;
    if let Some(times) = &mut fault.times {
        *times -= 1;
    }
    Some(fault.action.clone())
}
