//! What the running sandbox is: the world, the faults that are ordered, the memory of requests, and the calls that are on
//! their way still. It knows nothing of connections.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::api;
use crate::faults::{Action, Fault, When, take};
use crate::request::Request;
use crate::world::World;

/// Longer texts are shortened in the memory of requests.
const LONGEST_NOTE: usize = 256 * 1024;
/// How many requests are remembered.
const REMEMBERED: usize = 100_000;

#[derive(Debug)]
pub(crate) struct App {
    world: Mutex<World>,
    faults: Mutex<Vec<Fault>>,
    notes: Mutex<Notes>,
    /// Calls on their way, whose answers were given up.
    late: Mutex<Vec<Request>>,
    /// Wakes those that hang.
    pub(crate) cleared: Notify,
}

impl App {
    pub(crate) fn new(world: World) -> Self {
        Self {
            world: Mutex::new(world),
            faults: Mutex::default(),
            notes: Mutex::default(),
            late: Mutex::default(),
            cleared: Notify::new(),
        }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_faults(&self, faults: Vec<Fault>) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
        self.cleared.notify_waiters();
    }

    /// A call stays on its way.
    pub(crate) fn hold_back(&self, request: Request) {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }

    /// The calls that were on their way arrive, in their order; tells the statuses of the answers nobody waits for.
    pub(crate) fn process_late(&self) -> Vec<u16> {
        let late = std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner));
        late.iter().map(|request| api::answer(&mut self.world(), request).status).collect()
    }

    pub(crate) fn fault(&self, when: When, request: &Request) -> Option<Action> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        take(&mut faults, when, &request.method, &request.target(), &String::from_utf8_lossy(&request.body))
    }
}

/// The memory of API requests, oldest forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    next: u64,
    /// Of all requests, also those that are forgotten.
    counts: BTreeMap<String, u64>,
    kept: VecDeque<Note>,
}

#[derive(Debug)]
pub(crate) struct Note {
    n: u64,
    at: String,
    method: String,
    path: String,
    token_user: Option<String>,
    body: String,
    /// 0 until there is an answer, and for ever if there is none.
    pub(crate) status: u16,
    pub(crate) response: String,
}

impl Notes {
    pub(crate) fn arrival(&mut self, at: String, token_user: Option<String>, request: &Request) -> u64 {
        let n = self.next;
        self.next += 1;
        *self.counts.entry(kind(request)).or_default() += 1;
        if self.kept.len() >= REMEMBERED {
            self.kept.pop_front();
        }
        self.kept.push_back(Note {
            n,
            at,
            method: request.method.clone(),
            path: request.target(),
            token_user,
            body: shortened(&request.body),
            status: 0,
            response: String::new(),
        });
        n
    }

    pub(crate) fn find(&mut self, n: u64) -> Option<&mut Note> {
        let first = self.kept.front()?.n;
        self.kept.get_mut(usize::try_from(n.checked_sub(first)?).ok()?)
    }

    pub(crate) fn since(&self, since: u64, last: Option<usize>) -> Value {
        let skip = last.map_or(0, |last| self.kept.len().saturating_sub(last));
        let shown = self.kept.iter().skip(skip).filter(|note| note.n >= since);
        let requests: Vec<Value> = shown
            .map(|note| {
                json!({
                    "n": note.n, "at": note.at, "method": note.method, "path": note.path,
                    "token_user": note.token_user, "body": note.body, "status": note.status,
                    "response": note.response,
                })
            })
            .collect();
        json!({ "next": self.next, "counts": self.counts, "requests": requests })
    }
}

/// A request without what it is about: `GET /api/marketplace-provider-resources/*/plan_periods/`.
fn kind(request: &Request) -> String {
    let part = |part| if Uuid::try_parse(part).is_ok() { "*" } else { part };
    let path: Vec<&str> = request.path.split('/').map(part).collect();
    format!("{} {}", request.method, path.join("/"))
}

pub(crate) fn shortened(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..LONGEST_NOTE).unwrap_or(bytes));
    if bytes.len() > LONGEST_NOTE { format!("{text}… ({} bytes)", bytes.len()) } else { text.into_owned() }
}
