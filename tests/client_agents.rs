//! Registration with a Waldur that keeps a list of agents: what is sent, and that nothing hangs on it. The server is one of
//! this test alone; the sandbox knows no agents.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Value, json};
use waldur_usage_agent::config::clock::ManualClock;
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::config::waldur::WaldurSettings;
use waldur_usage_agent::waldur::agents::Registration;
use waldur_usage_agent::waldur::client::Client;
use waldur_usage_agent::waldur::failure::Failure;

const NOW: &str = "2026-11-23T00:00:00Z";
const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";
const OTHER: &str = "91ab0000-0000-4000-8000-000000000002";
const IDENTITY: &str = "1de00000000040008000000000000001";
const SERVICE: &str = "5e400000000040008000000000000001";
const NAME: &str = "waldur-usage-agent@here";

/// What it has listed, what becomes of a new entry, and what it was asked.
#[derive(Clone)]
struct Waldur {
    listed: Value,
    making: (u16, Value),
    asked: Arc<Mutex<Vec<String>>>,
}

async fn answer(State(waldur): State<Waldur>, method: Method, uri: Uri, body: Bytes) -> Response {
    let path = uri.path_and_query().unwrap().as_str().strip_prefix("/api/").unwrap().to_owned();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    waldur.asked.lock().unwrap().push(match body.is_null() {
        true => format!("{method} {path}"),
        false => format!("{method} {path} {body}"),
    });
    let (status, body) = match (method, path.as_str()) {
        (Method::GET, path) if path.starts_with("marketplace-site-agent-identities/?name=") => {
            (200, waldur.listed.clone())
        }
        (Method::POST, "marketplace-site-agent-identities/") => waldur.making.clone(),
        (Method::PUT, path) if path == format!("marketplace-site-agent-identities/{IDENTITY}/") => {
            (200, json!({ "uuid": IDENTITY }))
        }
        (Method::POST, path)
            if path == format!("marketplace-site-agent-identities/{IDENTITY}/register_service/") =>
        {
            // What is known is answered with 200, what is new with 201.
            (200, json!({ "uuid": SERVICE, "state": "IDLE" }))
        }
        (Method::POST, path)
            if path == format!("marketplace-site-agent-services/{SERVICE}/register_processor/") =>
        {
            (201, json!({ "uuid": OTHER }))
        }
        _ => return (StatusCode::NOT_FOUND, "<html>Not Found</html>").into_response(),
    };
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}

/// The registration, and what the server was asked for it.
async fn register(listed: Value, making: (u16, Value), path: &str) -> (Result<(), Failure>, Vec<String>) {
    static TOKEN_FILE: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("client-agents-token");
        std::fs::write(&path, "token").unwrap();
        path
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let waldur = Waldur { listed, making, asked: asked.clone() };
    let app = axum::Router::new().route(path, any(answer)).with_state(waldur);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let text = format!("url: http://127.0.0.1:{port}/\ntoken_file: {}\n", TOKEN_FILE.display());
    let (mut section, _) = Section::parse(&text);
    let settings = WaldurSettings::from_section(&mut section).unwrap();
    let client = Client::new(&settings, Arc::new(ManualClock::at(NOW.parse().unwrap()))).unwrap();
    let agent = Registration {
        offering: OFFERING.parse().unwrap(),
        name: NAME.to_owned(),
        version: "0.1.0".to_owned(),
        started: NOW.parse().unwrap(),
        plugins: BTreeSet::from(["slurm", "cgroup"]),
    };
    let done = client.register(&agent).await;
    let asked = asked.lock().unwrap().clone();
    (done, asked)
}

fn identity() -> String {
    json!({
        "offering": OFFERING, "name": NAME, "version": "0.1.0", "last_restarted": NOW, "dependencies": [],
        "config_file_path": "", "config_file_content": "",
    })
    .to_string()
}

/// The calls that follow an identity.
fn service_and_processors() -> Vec<String> {
    let service = format!("POST marketplace-site-agent-identities/{IDENTITY}/register_service/");
    let processor = format!("POST marketplace-site-agent-services/{SERVICE}/register_processor/");
    vec![
        format!("{service} {}", json!({ "mode": "report", "name": "report" })),
        format!(
            "{processor} {}",
            json!({ "backend_type": "cgroup", "backend_version": "0.1.0", "name": "cgroup" })
        ),
        format!(
            "{processor} {}",
            json!({ "backend_type": "slurm", "backend_version": "0.1.0", "name": "slurm" })
        ),
    ]
}

const ALL: &str = "/{*path}";

#[tokio::test]
async fn a_new_agent_is_listed_with_its_service_and_its_plugins() {
    // Another offering's agent of that name, and another agent, are not ours.
    let listed = json!([
        { "uuid": OTHER, "name": NAME, "offering": OTHER },
        { "uuid": OTHER, "name": "site-agent", "offering": OFFERING },
    ]);
    let (done, asked) =
        register(listed, (201, json!({ "uuid": IDENTITY, "compatibility": null })), ALL).await;
    done.unwrap();
    let look = "GET marketplace-site-agent-identities/?name=waldur-usage-agent%40here".to_owned();
    let make = format!("POST marketplace-site-agent-identities/ {}", identity());
    assert_eq!(asked, [vec![look, make], service_and_processors()].concat());
}

#[tokio::test]
async fn one_that_is_listed_is_brought_up_to_date() {
    let listed = json!([{ "uuid": IDENTITY, "name": NAME, "offering": OFFERING.replace('-', "") }]);
    let (done, asked) = register(listed, (500, json!({})), ALL).await;
    done.unwrap();
    let update = format!("PUT marketplace-site-agent-identities/{IDENTITY}/ {}", identity());
    assert_eq!(asked[1..], [vec![update], service_and_processors()].concat());
}

#[tokio::test]
async fn a_server_that_knows_no_agents_or_wants_none_is_told_apart() {
    let (done, asked) = register(json!([]), (200, json!({})), "/elsewhere").await;
    assert!(matches!(done, Err(Failure::Endpoint { .. })), "{done:?}");
    assert_eq!(asked.len(), 0, "the route was not there");
    let refusal = json!({ "offering": [format!("Object with uuid={OFFERING} does not exist.")] });
    let (done, asked) = register(json!([]), (400, refusal), ALL).await;
    assert!(matches!(done, Err(Failure::Refused { .. })), "{done:?}");
    assert_eq!(asked.len(), 2, "nothing follows a refusal");
}
