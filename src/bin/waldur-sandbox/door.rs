//! The door: every request comes in here, is written down, suffers its faults, waits for its token's turn, and
//! leaves with the headers of a server that closes every connection (A §11).
//!
//! What a request means is decided in `api`; this file knows only what all of them share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::answer::Answer;
use crate::faults::{Action, Fault, When, take};
use crate::wire::Cut;
use crate::world::World;
use crate::{admin, api, clock};

/// No body is larger (A §1: 20 MiB were accepted).
const LARGEST_BODY: usize = 20 * 1024 * 1024;
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
    late: Mutex<Vec<Asked>>,
    /// Wakes those that hang.
    cleared: Notify,
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

    /// The calls that were on their way arrive, in their order; tells the statuses of the answers nobody waits for.
    pub(crate) fn process_late(&self) -> Vec<u16> {
        let late = std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner));
        late.iter().map(|asked| api::answer(&mut self.world(), asked).status).collect()
    }

    fn fault(&self, when: When, asked: &Asked) -> Option<Action> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        take(&mut faults, when, &asked.method, &asked.target(), &String::from_utf8_lossy(&asked.body))
    }
}

/// What was asked, in the words that the API looks at.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) host: String,
    pub(crate) authorization: Option<String>,
    pub(crate) accept: Option<String>,
    pub(crate) accept_language: Option<String>,
    pub(crate) content_type: Option<String>,
    /// Without one the server sees no body (A §1, chunked).
    pub(crate) has_length: bool,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// Path and query.
    pub(crate) fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }
}

/// The memory of API requests, oldest forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    next: u64,
    kept: VecDeque<Note>,
}

#[derive(Debug)]
struct Note {
    n: u64,
    at: String,
    method: String,
    path: String,
    token_user: Option<String>,
    body: String,
    /// 0 until there is an answer, and for ever if there is none.
    status: u16,
    response: String,
}

impl Notes {
    fn arrival(&mut self, at: String, token_user: Option<String>, asked: &Asked) -> u64 {
        let n = self.next;
        self.next += 1;
        if self.kept.len() >= REMEMBERED {
            self.kept.pop_front();
        }
        self.kept.push_back(Note {
            n,
            at,
            method: asked.method.clone(),
            path: asked.target(),
            token_user,
            body: shortened(&asked.body),
            status: 0,
            response: String::new(),
        });
        n
    }

    fn find(&mut self, n: u64) -> Option<&mut Note> {
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
        json!({ "next": self.next, "requests": requests })
    }
}

fn shortened(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..LONGEST_NOTE).unwrap_or(bytes));
    if bytes.len() > LONGEST_NOTE { format!("{text}… ({} bytes)", bytes.len()) } else { text.into_owned() }
}

pub(crate) async fn open(
    State(app): State<Arc<App>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    request: Request,
) -> Response {
    // A client that gives up does not stop the server: it completes and commits (A §11). So the work is a task of
    // its own, which outlives the connection.
    let work = tokio::spawn(serve(app, cut, request));
    work.await.unwrap_or_else(|_| respond(Answer::broken(), None, false))
}

async fn serve(app: Arc<App>, cut: Cut, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header =
        |name: &str| parts.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let Ok(body) = axum::body::to_bytes(body, LARGEST_BODY).await else {
        return respond(Answer::detail(413, "Request body is too large."), None, false);
    };
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        host: header("host").unwrap_or_else(|| "localhost".into()),
        authorization: header("authorization"),
        accept: header("accept"),
        accept_language: header("accept-language"),
        content_type: header("content-type"),
        has_length: parts.headers.contains_key("content-length"),
        body: body.to_vec(),
    };
    let head = asked.method == "HEAD";
    if asked.path == "/" || asked.path == "/sandbox" || asked.path.starts_with("/sandbox/") {
        return respond(admin::serve(&app, &asked), None, head);
    }
    let (at, user) = {
        let world = app.world();
        let token = api::token_of(&asked).and_then(|key| world.tokens.get(key));
        (clock::show(world.clock.now()), token.map(|token| token.username.clone()))
    };
    let n = app.notes().arrival(at, user, &asked);
    let answer = suffer(&app, &cut, &asked).await;
    if let Some(note) = app.notes().find(n)
        && let Some(answer) = &answer
    {
        note.status = answer.status;
        note.response = shortened(&answer.body);
    }
    let Some(answer) = answer else {
        cut.now();
        return respond(Answer::broken(), None, head);
    };
    let now = app.world().clock.now();
    respond(answer, Some(clock::http_date(now)), head)
}

/// The answer, after the faults that were ordered for it; `None`: the connection just ends.
async fn suffer(app: &App, cut: &Cut, asked: &Asked) -> Option<Answer> {
    match app.fault(When::Before, asked) {
        None => {}
        Some(Action::Hang(ms)) => hang(app, ms).await,
        Some(Action::Answer(answer)) => return Some(answer),
        Some(Action::Drop) => return None,
        Some(Action::Truncate) => {
            cut.halfway();
            return Some(Answer::broken());
        }
    }
    if let Some(action) = app.fault(When::Late, asked) {
        app.late.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
        return match action {
            Action::Answer(answer) => Some(answer),
            _ => None,
        };
    }
    let answer = take_turn(app, asked).await.translated(asked.accept_language.as_deref());
    match app.fault(When::After, asked) {
        None => {}
        Some(Action::Hang(ms)) => hang(app, ms).await,
        Some(Action::Answer(other)) => return Some(other),
        Some(Action::Drop) => return None,
        Some(Action::Truncate) => cut.halfway(),
    }
    Some(answer)
}

async fn hang(app: &App, ms: Option<u64>) {
    match ms {
        None => app.cleared.notified().await,
        Some(ms) => {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(ms)) => {}
                () = app.cleared.notified() => {}
            }
        }
    }
}

/// One call at a time a token, the slowness of the server included (A §11).
async fn take_turn(app: &App, asked: &Asked) -> Answer {
    let (turn, latency) = {
        let world = app.world();
        let token = api::token_of(asked).and_then(|key| world.tokens.get(key));
        (token.map(|token| token.turn.clone()), world.latency_ms)
    };
    let _turn = match turn {
        Some(turn) => Some(turn.lock_owned().await),
        None => None,
    };
    pause(latency).await;
    let first = {
        let world = app.world();
        if api::is_first_of_month(&world, asked) { world.first_of_month_ms } else { 0 }
    };
    pause(first).await;
    // The month is decided now, when the call is processed, not when it came in (A §4).
    let mut world = app.world();
    world.clock.hold();
    let answer = api::answer(&mut world, asked);
    world.clock.release();
    answer
}

/// No pause is none at all: even the shortest sleep lasts until the timer's next tick.
async fn pause(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

fn respond(answer: Answer, date: Option<String>, head: bool) -> Response {
    let length = answer.body.len();
    let mut response = Response::new(if head { Body::empty() } else { Body::from(answer.body) });
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut headers = answer.headers;
    headers.push(("Content-Length".into(), length.to_string()));
    headers.push(("Connection".into(), "close".into()));
    headers.extend(date.map(|date| ("Date".into(), date)));
    for (name, value) in headers {
        // A fault may ask for a header that is none; it is left out.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
