//! The HTTP server: every request comes in here, is written down, suffers its faults, waits for its token's turn, and
//! leaves with the headers of a server that closes every connection (A §11).
//!
//! What a request means is decided in `api`; this file knows only what all of them share.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;

use crate::answer::Answer;
use crate::app::{App, shortened};
use crate::faults::{Action, When};
use crate::request::Request;
use crate::wire::Cut;
use crate::{admin, api, clock};

/// No body is larger (A §1: 20 MiB were accepted).
const LARGEST_BODY: usize = 20 * 1024 * 1024;

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    incoming: axum::extract::Request,
) -> Response {
    // A client that gives up does not stop the server: it completes and commits (A §11). So the work is a task of
    // its own, which outlives the connection.
    let work = tokio::spawn(serve(app, cut, incoming));
    work.await.unwrap_or_else(|_| respond(Answer::broken(), None, false))
}

async fn serve(app: Arc<App>, cut: Cut, incoming: axum::extract::Request) -> Response {
    let (parts, body) = incoming.into_parts();
    let header =
        |name: &str| parts.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let Ok(body) = axum::body::to_bytes(body, LARGEST_BODY).await else {
        return respond(Answer::detail(413, "Request body is too large."), None, false);
    };
    let request = Request {
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
    let head = request.method == "HEAD";
    if request.path == "/" || request.path == "/sandbox" || request.path.starts_with("/sandbox/") {
        return respond(admin::serve(&app, &request), None, head);
    }
    let (at, user) = {
        let world = app.world();
        let token = api::token_of(&request).and_then(|key| world.tokens.get(key));
        (clock::show(world.clock.now()), token.map(|token| token.username.clone()))
    };
    let n = app.notes().arrival(at, user, &request);
    let answer = suffer(&app, &cut, &request).await;
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
async fn suffer(app: &App, cut: &Cut, request: &Request) -> Option<Answer> {
    match app.fault(When::Before, request) {
        None => {}
        Some(Action::Hang(ms)) => hang(app, ms).await,
        Some(Action::Answer(answer)) => return Some(answer),
        Some(Action::Drop) => return None,
        Some(Action::Truncate) => {
            cut.halfway();
            return Some(Answer::broken());
        }
    }
    if let Some(action) = app.fault(When::Late, request) {
        app.hold_back(request.clone());
        return match action {
            Action::Answer(answer) => Some(answer),
            _ => None,
        };
    }
    let answer = take_turn(app, request).await.translated(request.accept_language.as_deref());
    match app.fault(When::After, request) {
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

/// One call at a time a token, the slowness of the server included (A §11), or as many as the marketplace file says.
async fn take_turn(app: &App, request: &Request) -> Answer {
    let (turn, latency) = {
        let world = app.world();
        let token = api::token_of(request).and_then(|key| world.tokens.get(key));
        (token.map(|token| token.turn.clone()), world.latency_ms)
    };
    let _turn = match turn {
        Some(turn) => turn.acquire_owned().await.ok(),
        None => None,
    };
    pause(latency).await;
    let first = {
        let world = app.world();
        if api::is_first_of_month(&world, request) { world.first_of_month_ms } else { 0 }
    };
    pause(first).await;
    // The month is decided now, when the call is processed, not when it came in (A §4).
    let mut world = app.world();
    world.clock.hold();
    let answer = api::answer(&mut world, request);
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
