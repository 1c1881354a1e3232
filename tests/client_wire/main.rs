//! The client against a server that is only bytes: what goes over the wire, and what becomes of every way in which
//! an answer can be late, short, long, wrong or not there.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod server;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use uuid::Uuid;
use waldur_usage_agent::config::clock::ManualClock;
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::config::waldur::WaldurSettings;
use waldur_usage_agent::waldur::client::{Client, SetupError};
use waldur_usage_agent::waldur::failure::Failure;
use waldur_usage_agent::waldur::refusal::Refusal;
use waldur_usage_agent::waldur::report::{ComponentAmount, SetUsage, UserAmount};
use waldur_usage_agent::waldur::usages::UsageFilter;

use crate::server::{Act, Server};

const TOKEN: &str = "0123456789abcdef0123456789abcdef01234567";
const NOW: &str = "2026-11-23T00:00:00Z";
const CREATED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

fn settings(text: &str) -> WaldurSettings {
    let (mut section, problems) = Section::parse(text);
    let settings = WaldurSettings::from_section(&mut section);
    settings.unwrap_or_else(|| panic!("{:?}", problems.list()))
}

fn client_of(server: &Server) -> Client {
    client(&format!("url: http://127.0.0.1:{}/\ntimeout: 1s\n", server.port))
}

/// A client whose token is in a file that lives as long as the tests.
fn client(text: &str) -> Client {
    static TOKEN_FILE: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("client-wire-token");
        std::fs::write(&path, TOKEN).unwrap();
        path
    });
    let settings = settings(&format!("{text}token_file: {}\n", TOKEN_FILE.display()));
    Client::new(&settings, Arc::new(ManualClock::at(NOW.parse().unwrap()))).unwrap()
}

fn report() -> SetUsage {
    let item = |component: &str, amount: &str| ComponentAmount {
        component: component.to_owned(),
        amount: amount.parse().unwrap(),
        description: Some(format!("{component} of November")),
        recurring: None,
        missing_usage_policy: None,
    };
    SetUsage {
        resource: Uuid::from_u128(0x5e2f),
        plan_period: None,
        date: None,
        usages: vec![item("ram", "7"), item("cpu", "12.3")],
    }
}

fn json(status: &str, body: &str) -> String {
    headed(status, "Content-Type: application/json\r\n", body)
}

fn headed(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

async fn failure(server: &Server) -> Failure {
    client_of(server).set_usage(&report()).await.unwrap_err()
}

#[tokio::test]
async fn a_report_goes_out_as_the_server_needs_it() {
    let server = Server::saying(CREATED).await;
    let client = client_of(&server);
    client.set_usage(&report()).await.unwrap();
    let request = server.requests().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    assert!(head.starts_with("post /api/marketplace-component-usages/set_usage/ http/1.1\r\n"), "{head}");
    for header in [
        format!("authorization: token {TOKEN}"),
        "accept: application/json".to_owned(),
        "accept-language: en".to_owned(),
        "content-type: application/json".to_owned(),
        format!("user-agent: waldur-usage-agent/{}", env!("CARGO_PKG_VERSION")),
        format!("content-length: {}", body.len()),
    ] {
        assert!(head.lines().any(|line| line == header), "{header} is not in {head}");
    }
    assert!(!head.contains("transfer-encoding") && !head.contains("accept-encoding"), "{head}");
    assert_eq!(
        body,
        "{\"resource\":\"00000000000000000000000000005e2f\",\"usages\":[\
         {\"type\":\"cpu\",\"amount\":\"12.30\",\"description\":\"cpu of November\"},\
         {\"type\":\"ram\",\"amount\":\"7.00\",\"description\":\"ram of November\"}]}"
    );
    assert_eq!(client.requests(), 1);
    assert!(!format!("{client:?}").contains(TOKEN));
}

#[tokio::test]
async fn one_connection_serves_many_calls() {
    let server = Server::saying(CREATED).await;
    let client = client_of(&server);
    for _ in 0..3 {
        client.set_usage(&report()).await.unwrap();
    }
    assert_eq!(*server.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn no_answer_in_time_is_unknown() {
    let failure = failure(&Server::start(vec![Act::Hang]).await).await;
    assert!(failure.may_be_applied(), "{failure:?}");
    assert!(failure.to_string().contains("no whole answer within 1 s"), "{failure}");
}

#[tokio::test]
async fn a_connection_lost_after_the_request_was_read_is_unknown_and_not_tried_again() {
    let server = Server::start(vec![Act::Drop]).await;
    let failure = failure(&server).await;
    assert!(matches!(failure, Failure::Unknown { status: None, .. }), "{failure:?}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn half_an_answer_is_unknown_even_if_its_half_says_created() {
    for half in [
        "HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\n12345",
        "HTTP/1.1 201 Cre",
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n{\"resource\":[",
        "garbage\r\n\r\n",
    ] {
        let server = Server::start(vec![Act::SayAndDrop(half.to_owned())]).await;
        let failure = failure(&server).await;
        assert_eq!(failure.name(), "unknown", "{half}: {failure:?}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let head = "HTTP/1.1 500 Internal Server Error\r\n\r\n".to_owned();
    let server = Server::start(vec![Act::Pour(head, "more and more words ")]).await;
    let failure = failure(&server).await;
    assert!(failure.to_string().contains("more than 65536 bytes"), "{failure}");
    assert!(matches!(failure, Failure::Unknown { status: Some(500), .. }), "{failure:?}");
}

#[tokio::test]
async fn nobody_there_means_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let gone = client(&format!("url: http://127.0.0.1:{port}\n")).set_usage(&report()).await.unwrap_err();
    assert_eq!(gone.name(), "not_sent", "{gone:?}");
    assert!(gone.to_string().contains("refused"), "{gone}");
    assert!(!gone.may_be_applied() && gone.concerns_every_call());
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_or_is_not_trusted_gets_no_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 2048];
        let read = stream.read(&mut buffer).await.unwrap();
        hears.lock().unwrap().extend_from_slice(&buffer[..read]);
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let failure = client(&format!("url: https://127.0.0.1:{port}\n")).me().await.unwrap_err();
    assert_eq!(failure.name(), "certificate", "{failure:?}");
    assert!(!String::from_utf8_lossy(&heard.lock().unwrap()).contains(TOKEN));
}

#[tokio::test]
async fn a_redirect_is_told_and_not_followed() {
    let elsewhere = Server::saying(CREATED).await;
    let to = format!("http://127.0.0.1:{}/api/elsewhere/", elsewhere.port);
    let server =
        Server::saying(headed("301 Moved Permanently", &format!("Location: {to}?token={TOKEN}\r\n"), ""))
            .await;
    let failure = failure(&server).await;
    assert_eq!(failure.name(), "redirected");
    assert!(failure.to_string().contains(&to) && !failure.to_string().contains(TOKEN), "{failure}");
    assert_eq!(*elsewhere.connections.lock().unwrap(), 0);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_list_goes_on_by_its_own_page_numbers_never_by_a_link() {
    let elsewhere = Server::saying(json("200 OK", "[]")).await;
    let link = format!("<http://127.0.0.1:{}/api/x/?page=2>; rel=\"next\"", elsewhere.port);
    let row = |id: u32| {
        format!(
            "{{\"uuid\":\"{id:032x}\",\"type\":\"cpu\",\"usage\":\"1.00\",\"resource_uuid\":\"{:032x}\",\
             \"billing_period\":\"2026-11-01\"}}",
            7
        )
    };
    let page = |headers: &str, ids: &[u32]| {
        let rows: Vec<_> = ids.iter().map(|id| row(*id)).collect();
        let headers = format!("Content-Type: application/json\r\nX-Result-Count: 3\r\n{headers}");
        Act::Say(headed("200 OK", &headers, &format!("[{}]", rows.join(","))))
    };
    let next = format!("Link: {link}\r\n");
    // A row was reported anew while the first walk was under way: 2 is shown twice, 3 not at all.
    let server = Server::start(vec![
        page(&next, &[1, 2]),
        page("Link: <x>; rel=\"first\"\r\n", &[2]),
        page(&next, &[2, 1]),
        page("Link: <x>; rel=\"first\"\r\n", &[3]),
    ])
    .await;
    let rows = client_of(&server).list_usages(&UsageFilter::default()).await.unwrap();
    assert_eq!(rows.rows.iter().map(|row| row.uuid.as_u128()).collect::<Vec<_>>(), [2, 1, 3]);
    assert_eq!(*elsewhere.connections.lock().unwrap(), 0);
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    assert!(
        requests[0].starts_with("GET /api/marketplace-component-usages/?page_size=300 HTTP"),
        "{}",
        requests[0]
    );
    assert!(requests[1].contains("?page_size=300&page=2 HTTP"), "{}", requests[1]);
}

#[tokio::test]
async fn a_shifting_list_is_read_on_as_long_as_rows_are_seen_that_were_not_seen_before() {
    let walk = |id: u32| {
        let row = format!("[{{\"uuid\":\"{id:032x}\",\"username\":\"u\",\"usage\":1}}]");
        let headers = "Content-Type: application/json\r\nX-Result-Count: 5\r\nLink: <x>; rel=\"first\"\r\n";
        Act::Say(headed("200 OK", headers, &row))
    };
    let read = async |ids: &[u32]| {
        let server = Server::start(ids.iter().map(|id| walk(*id)).collect()).await;
        let period = "2026-11-01".parse().unwrap();
        let rows = client_of(&server).list_user_usages(Uuid::from_u128(7), "cpu", period).await;
        (rows.map(|rows| rows.len()).map_err(|failure| failure.to_string()), server.requests().len())
    };
    assert_eq!(read(&[1, 2, 3, 4, 5]).await, (Ok(5), 5));
    // Two walks in vain prove nothing; the third in a row does.
    assert_eq!(read(&[1, 2, 2, 1, 3, 3, 3, 4, 5]).await, (Ok(5), 9));
    let (rows, walks) = read(&[1, 2, 3, 3, 1, 2, 5]).await;
    assert!(rows.unwrap_err().contains("3 of 5 rows"));
    assert_eq!(walks, 6);
}

/// Where rows tie, a server may order each page otherwise, and the same way each time: row 301 is on both pages, and row
/// 300 on neither.
#[tokio::test]
async fn a_list_that_is_read_again_is_read_by_pages_of_another_size() {
    let page = |ids: &mut dyn Iterator<Item = u32>| {
        let row = |id| format!("{{\"uuid\":\"{id:032x}\",\"username\":\"u\",\"usage\":1}}");
        let rows: Vec<String> = ids.map(row).collect();
        let headers = "Content-Type: application/json\r\nX-Result-Count: 301\r\n";
        Act::Say(headed("200 OK", headers, &format!("[{}]", rows.join(","))))
    };
    let server = Server::start(vec![
        page(&mut (1..=299).chain([301])),
        page(&mut (301..=301)),
        page(&mut (1..=293)),
        page(&mut (294..=301)),
    ])
    .await;
    let period = "2026-11-01".parse().unwrap();
    let rows = client_of(&server).list_user_usages(Uuid::from_u128(7), "cpu", period).await.unwrap();
    assert_eq!(rows.len(), 301);
    let sizes: Vec<bool> =
        server.requests().iter().map(|request| request.contains("page_size=293")).collect();
    assert_eq!(sizes, [false, false, true, true]);
}

#[tokio::test]
async fn a_row_that_has_gone_when_the_list_is_read_again_is_not_handed_out() {
    let walk = |count: u32, id: u32| {
        let row = format!("[{{\"uuid\":\"{id:032x}\",\"username\":\"u\",\"usage\":1}}]");
        let headers = format!(
            "Content-Type: application/json\r\nX-Result-Count: {count}\r\nLink: <x>; rel=\"first\"\r\n"
        );
        Act::Say(headed("200 OK", &headers, &row))
    };
    // One of two is seen; then there is only the other.
    let server = Server::start(vec![walk(2, 1), walk(1, 2)]).await;
    let period = "2026-11-01".parse().unwrap();
    let rows = client_of(&server).list_user_usages(Uuid::from_u128(7), "cpu", period).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.uuid.as_u128()).collect::<Vec<_>>(), [2]);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn as_many_pages_are_under_way_as_calls_may_be() {
    let page = |count: u32, ids: &[u32]| {
        let row = |id: &u32| format!("{{\"uuid\":\"{id:032x}\",\"username\":\"u\",\"usage\":1}}");
        let rows: Vec<_> = ids.iter().map(row).collect();
        let headers = format!("Content-Type: application/json\r\nX-Result-Count: {count}\r\n");
        headed("200 OK", &headers, &format!("[{}]", rows.join(",")))
    };
    // Eight lists of one page show that two calls may be under way.
    let mut acts = vec![Act::Say(page(1, &[9])); 8];
    acts.push(Act::Say(page(6, &[1, 2])));
    let both = Arc::new(Barrier::new(2));
    acts.extend([[3, 4], [5, 6]].map(|ids| Act::SayTogether(both.clone(), page(6, &ids))));
    let server = Server::start(acts).await;
    let client = client_of(&server);
    let period = "2026-11-01".parse().unwrap();
    let list = async || client.list_user_usages(Uuid::from_u128(7), "cpu", period).await.unwrap();
    for _ in 0..8 {
        assert_eq!(list().await.len(), 1);
    }
    let mut rows: Vec<u128> = list().await.iter().map(|row| row.uuid.as_u128()).collect();
    rows.sort_unstable();
    assert_eq!(rows, [1, 2, 3, 4, 5, 6]);
    assert_eq!(server.requests().len(), 11);
}

#[tokio::test]
async fn a_list_that_never_comes_out_whole_is_an_error_and_not_a_shorter_list() {
    let rows = "[{\"uuid\":\"00000000000000000000000000000001\",\"username\":\"u\",\"usage\":1}]";
    let headers = "Content-Type: application/json\r\nX-Result-Count: 2\r\n";
    let server = Server::saying(headed("200 OK", headers, rows)).await;
    let period = "2026-11-01".parse().unwrap();
    let failure = client_of(&server).list_user_usages(Uuid::from_u128(7), "cpu", period).await.unwrap_err();
    assert!(failure.to_string().contains("1 of 2 rows"), "{failure}");
    // Each walk but the first is in vain; the server shows no end, so that each asks for a second page.
    assert_eq!(server.requests().len(), 8);
}

#[tokio::test]
async fn retry_after_is_heard_in_both_forms() {
    let said = |header: &str| headed("503 Service Unavailable", header, "<h1>Busy</h1>");
    let server = Server::saying(said("Retry-After: 77\r\n")).await;
    assert_eq!(failure(&server).await.retry_after(), Some(SignedDuration::from_secs(77)));
    let both = "Date: Mon, 23 Nov 2026 12:00:00 GMT\r\nRetry-After: Mon, 23 Nov 2026 12:01:00 GMT\r\n";
    let server = Server::saying(said(both)).await;
    assert_eq!(failure(&server).await.retry_after(), Some(SignedDuration::from_mins(1)));
    // Without its Date, by our clock.
    let server = Server::saying(said("Retry-After: Mon, 23 Nov 2026 00:02:00 GMT\r\n")).await;
    let failure = failure(&server).await;
    assert_eq!(failure.retry_after(), Some(SignedDuration::from_mins(2)));
    assert!(failure.to_string().contains("Busy"), "{failure}");
}

#[tokio::test]
async fn the_servers_clock_is_learnt_from_any_answer() {
    let server = Server::saying(headed("500 Oops", "Date: Mon, 23 Nov 2026 01:00:00 GMT\r\n", "")).await;
    let client = client_of(&server);
    assert_eq!(client.skew(), None);
    client.set_usage(&report()).await.unwrap_err();
    let skew = client.measured_skew().unwrap();
    assert_eq!(skew.offset, SignedDuration::from_millis(3_600_500));
    assert_eq!(skew.uncertainty, SignedDuration::from_millis(500));
    assert_eq!(skew.measured, NOW.parse::<Timestamp>().unwrap());
}

#[tokio::test]
async fn a_refused_token_is_told_without_being_told() {
    let body = format!("{{\"detail\":\"Invalid token {TOKEN}.\"}}");
    let server = Server::saying(json("401 Unauthorized", &body)).await;
    let failure = failure(&server).await;
    assert_eq!(failure.name(), "token");
    assert!(failure.words().starts_with("Invalid token ***. (the token of the file "), "{failure}");
    assert_eq!(server.requests().len(), 1, "the same token is not tried twice");
}

#[tokio::test]
async fn a_token_that_was_rotated_while_it_was_used_is_tried_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "old").unwrap();
    let server = Server::start(vec![
        Act::Say(json("401 Unauthorized", "{\"detail\":\"Invalid token.\"}")),
        Act::Say(CREATED.to_owned()),
    ])
    .await;
    let settings =
        settings(&format!("url: http://127.0.0.1:{}\ntoken_file: {}", server.port, path.display()));
    let client = Client::new(&settings, Arc::new(ManualClock::at(NOW.parse().unwrap()))).unwrap();
    // The old token is what `current` gives as long as the file looks the same; the new one comes with the 401.
    let report = report();
    let (_, rotated) = tokio::join!(
        async {
            while server.requests().is_empty() {
                tokio::task::yield_now().await;
            }
            std::fs::write(&path, "new-one").unwrap();
        },
        client.set_usage(&report)
    );
    rotated.unwrap();
    let requests = server.requests();
    assert!(
        requests[0].contains("Token old\r\n") && requests[1].contains("Token new-one\r\n"),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_refusal_names_the_items_as_the_caller_gave_them() {
    // Sent as cpu, ram; given as ram, cpu.
    let body = "{\"usages\":[{\"amount\":[\"A valid number is required.\"]},{}]}";
    let server = Server::saying(json("400 Bad Request", body)).await;
    let Failure::Refused { refusal: Refusal::Items(items), .. } = failure(&server).await else {
        panic!("not refused by items")
    };
    assert_eq!(items, [(1, "cpu: amount: A valid number is required.".to_owned())]);
}

#[tokio::test]
async fn what_a_proxy_says_is_never_a_refusal() {
    for (status, body) in
        [("400 Bad Request", "<h1>400</h1>"), ("200 OK", "<h1>Welcome</h1>"), ("413 Too Large", "")]
    {
        let server = Server::saying(headed(status, "Content-Type: text/html\r\n", body)).await;
        let failure = failure(&server).await;
        assert_eq!(failure.name(), "unknown", "{failure:?}");
    }
    let packed = "\u{1f}\u{8b}packed";
    let headers = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    let server = Server::saying(headed("200 OK", headers, packed)).await;
    assert_eq!(client_of(&server).me().await.unwrap_err().name(), "unknown");
}

#[tokio::test]
async fn a_server_without_the_bulk_call_is_told_from_a_row_that_is_not_there() {
    let user = UserAmount {
        username: "u1".into(),
        amount: "1.5".parse().unwrap(),
        user_url: None,
        date: Some(NOW.parse().unwrap()),
    };
    let row = Uuid::from_u128(9);
    let page = headed("404 Not Found", "Content-Type: text/html\r\n", "<h1>Not Found</h1>");
    let server = Server::saying(page).await;
    let failure = client_of(&server).set_user_usages(row, std::slice::from_ref(&user)).await.unwrap_err();
    assert_eq!(failure.name(), "endpoint");
    assert!(server.requests()[0].ends_with(
        "{\"usages\":[{\"username\":\"u1\",\"usage\":\"1.50\",\"date\":\"2026-11-23T00:00:00Z\"}]}"
    ));
    let body = "{\"detail\":\"No ComponentUsage matches the given query.\"}";
    let server = Server::saying(json("404 Not Found", body)).await;
    let failure = client_of(&server).set_user_usage(row, &user).await.unwrap_err();
    assert_eq!(failure.name(), "missing");
    assert!(client_of(&server).set_user_usages(row, &[]).await.unwrap_err().refusal().is_some());
}

#[tokio::test]
async fn no_more_calls_are_under_way_than_allowed() {
    let server = Server::start(vec![Act::Hang]).await;
    let client = client(&format!("url: http://127.0.0.1:{}\nmax_in_flight: 1\ntimeout: 1s\n", server.port));
    let report = report();
    let first_two = async { tokio::join!(client.set_usage(&report), client.set_usage(&report)) };
    let _ = tokio::time::timeout(Duration::from_millis(500), first_two).await;
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn what_is_wrong_with_the_files_is_told_by_their_key() {
    let clock = || Arc::new(ManualClock::at(NOW.parse().unwrap()));
    let no_token = settings("url: https://w.example.com\ntoken_file: /nowhere/token");
    let error = Client::new(&no_token, clock()).unwrap_err();
    assert!(matches!(error, SetupError::Token(_)) && error.to_string().contains("/nowhere/token"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    for key in ["ca_file: ", "client_key_file: /nowhere\nclient_cert_file: "] {
        let text =
            format!("url: https://w.example.com\ntoken_file: {}\n{key}{}", token.display(), token.display());
        let error = Client::new(&settings(&text), clock()).unwrap_err();
        assert!(matches!(error, SetupError::Certificate { .. }), "{error}");
        assert!(!error.to_string().contains(TOKEN), "{error}");
    }
}
