//! Requests to a server that answers each with the next of its lines, byte for byte.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::config::section::Problem;

/// Reads a section; the address of the server and a folder for its files stand in for `URL` and `DIR`.
fn read(text: &str) -> (Option<Web>, Vec<String>) {
    let (mut section, problems) = Section::parse(text);
    let web = Web::from_section(&mut section);
    section.finish();
    (web, problems.list().iter().map(Problem::to_string).collect())
}

fn web(text: &str) -> Web {
    let (web, problems) = read(text);
    assert_eq!(problems, Vec::<String>::new(), "{text}");
    web.unwrap()
}

fn problem_of(text: &str) -> String {
    let (web, problems) = read(text);
    assert!(web.is_none() && problems.len() == 1, "{text}: {problems:?}");
    problems.into_iter().next().unwrap()
}

/// Answers as many connections as there are answers, one request each, and ends with what it heard.
fn serve(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = std::thread::spawn(move || {
        let answer = |answer: String| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            let mut chunk = [0; 4096];
            while !is_whole(&heard) {
                match stream.read(&mut chunk) {
                    Ok(read) if read > 0 => heard.extend_from_slice(&chunk[..read]),
                    _ => break,
                }
            }
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut chunk);
            String::from_utf8_lossy(&heard).into_owned()
        };
        answers.into_iter().map(answer).collect()
    });
    (address, heard)
}

fn is_whole(heard: &[u8]) -> bool {
    let text = String::from_utf8_lossy(heard).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_none_or(|length| body.len() >= length.trim().parse().unwrap())
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

fn ok(body: &str) -> String {
    answer("200 OK", "Content-Type: application/json\r\n", body)
}

async fn ask(web: &Web) -> Result<Answer, Trouble> {
    web.open()?.ask(&Ask::get(web.url().clone())).await
}

/// What is said of one answer to a request with the token `s3cret`.
async fn trouble_of(answer: String) -> String {
    let (address, _) = serve(vec![answer]);
    let folder = tempfile::tempdir().unwrap();
    let token = file(&folder, "token", "s3cret\n");
    let keys = format!("auth: {{ token_file: {} }}\nmax_answer: 1KiB\ntimeout: 5s", token.display());
    let trouble = ask(&web(&format!("url: http://{address}/api?key=abc\n{keys}"))).await.unwrap_err();
    let said = trouble.to_string();
    assert!(!said.contains("s3cret") && !said.contains("abc"), "{said}");
    said.replace(&address, "HOST").replace(&token.display().to_string(), "TOKEN")
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_common_keys_have_defaults_and_every_mistake_is_told() {
    let plain = web("url: http://node1:9100/metrics?a=b#c");
    assert_eq!(plain.url().as_str(), "http://node1:9100/metrics?a=b");
    assert_eq!((plain.timeout, plain.max_answer), (Duration::from_secs(60), 16 << 20));
    let (web, problems) = read(
        "url: node1\ntimeout: 5\nmax_answer: big\nheaders: { Authorization: x, 'a b': c }\ntls: { ca_fil: /x }\n\
         auth: { basic: { username: 'a:b', password: hunter2 }, tken_file: /x }",
    );
    assert!(web.is_none());
    let wanted = [
        "line 1: url: not an address (relative URL without a base); begin with https:// or http://",
        "line 2: timeout: `5` needs a unit: 5s for seconds, 5m for minutes",
        "line 3: max_answer: `big` is not a number of bytes such as 1048576, 64KiB or 16MiB",
        "line 4: headers: `Authorization` looks like a login, which must not stand in this file: use `auth`",
        "line 4: headers: `a b` is no name of a header",
        "line 5: tls.ca_fil: unknown key `ca_fil`; did you mean `ca_file`?",
        "line 6: auth.basic.username: must not have a colon",
        "line 6: auth.basic.password: a secret must not stand in this file: use `password_file` or `password_env`",
        "line 6: auth.tken_file: unknown key `tken_file`; did you mean `token_file`?",
    ];
    assert_eq!(problems, wanted);
}

#[test]
fn a_login_goes_over_plain_http_only_where_nobody_listens_or_if_it_is_allowed() {
    let login = "auth: { token_env: T }";
    assert!(problem_of(&format!("url: http://node1/\n{login}")).contains("plain http would show the login"));
    web("url: http://node1/");
    web(&format!("url: http://127.0.0.1/\n{login}"));
    web(&format!("url: http://node1/\nallow_http: true\n{login}"));
    let oauth2 = "{ token_url: 'http://sso/token', client_id: me, client_secret_env: S }";
    let problem = problem_of(&format!("url: https://node1/\nauth: {{ oauth2: {oauth2} }}"));
    assert!(problem.contains("auth.oauth2.token_url: plain http"), "{problem}");
    assert!(problem_of("url: https://me:hunter2@node1/").contains("use `auth`"));
}

#[test]
fn there_is_one_login_and_its_variable_is_known() {
    assert!(problem_of("url: https://n/\nauth: {}").contains("it says no login"));
    let two = "auth: { token_env: T, basic: { username: u, password_env: P } }";
    assert!(problem_of(&format!("url: https://n/\n{two}")).contains("one login is enough"));
    assert!(problem_of("url: https://n/\nauth: { token_env: T, token_file: /t }").contains("not both"));
    assert!(problem_of("url: https://n/\nauth: { header: X-Key }").contains("add `token_file`"));
    assert!(problem_of("url: https://n/\ntls: { client_key_file: /k }").contains("go together"));
    assert_eq!(web("url: https://n/\nauth: { token_env: T }").secret_env(), ["T"]);
}

#[test]
fn a_path_is_put_below_the_address() {
    let web = web("url: https://host/prefix/?tenant=a");
    let url = web.at("/api/v1/query", [("query", "up{a=\"b c\"}")]);
    assert_eq!(url.as_str(), "https://host/prefix/api/v1/query?tenant=a&query=up%7Ba%3D%22b+c%22%7D");
    assert_eq!(web.at("x", []).as_str(), "https://host/prefix/x?tenant=a");
}

#[tokio::test]
async fn a_request_has_the_headers_and_the_login() {
    let folder = tempfile::tempdir().unwrap();
    let secret = file(&folder, "secret", "pass word\n");
    let token = file(&folder, "token", "s3cret\n");
    for (auth, header) in [
        (format!("token_file: {}", token.display()), "authorization: Bearer s3cret"),
        (format!("token_file: {}\n  scheme: Token", token.display()), "authorization: Token s3cret"),
        (format!("token_file: {}\n  header: X-Auth-Token", token.display()), "x-auth-token: s3cret"),
        // printf 'aladdin:pass word' | base64
        (
            format!("basic: {{ username: aladdin, password_file: {} }}", secret.display()),
            "authorization: Basic YWxhZGRpbjpwYXNzIHdvcmQ=",
        ),
    ] {
        let (address, heard) = serve(vec![ok("{}")]);
        let text = format!("url: http://{address}/a?b=c\nheaders: {{ X-Scope-OrgID: t1 }}\nauth:\n  {auth}");
        ask(&web(&text)).await.unwrap();
        let heard = &heard.join().unwrap()[0];
        assert!(heard.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{heard}");
        for line in [header, "x-scope-orgid: t1", "accept: application/json"] {
            assert!(heard.contains(&format!("\r\n{line}\r\n")), "{line}: {heard}");
        }
    }
}

#[tokio::test]
async fn a_form_and_json_are_posted_with_their_length() {
    let (address, heard) = serve(vec![ok("{}"), ok("{}")]);
    let web = web(&format!("url: http://{address}/"));
    let session = web.open().unwrap();
    session.ask(&Ask::post_form(web.url().clone(), [("query", "a+b c")])).await.unwrap();
    session.ask(&Ask::post_json(web.url().clone(), b"{\"a\":1}".to_vec())).await.unwrap();
    let heard = heard.join().unwrap();
    assert!(heard[0].starts_with("POST / ") && heard[0].ends_with("\r\n\r\nquery=a%2Bb+c"), "{}", heard[0]);
    assert!(heard[1].contains("content-type: application/json") && heard[1].contains("content-length: 7"));
}

#[tokio::test]
async fn each_failure_is_told_with_what_to_do() {
    let said = trouble_of(answer("401 Unauthorized", "", r#"{"detail":"s3cret is bad"}"#)).await;
    let wanted = "GET http://HOST/api: 401 Unauthorized: *** is bad; the login is wrong or has expired: look at the \
                  file TOKEN";
    assert_eq!(said, wanted);
    let said = trouble_of(answer("403 Forbidden", "", r#"{"error":"Bearer s3cret lacks scope"}"#)).await;
    let wanted = "GET http://HOST/api: 403 Forbidden: error: Bearer *** lacks scope; the login may not read this: \
                  give it the permission (see the collector's page)";
    assert_eq!(said, wanted);
    let said = trouble_of(answer("404 Not Found", "", "<html><title>Nothing here</title>")).await;
    let wanted = "GET http://HOST/api: 404 Not Found: Nothing here; there is nothing to ask at this address: correct it";
    assert_eq!(said, wanted);
    let said = trouble_of(answer("500 Internal Server Error", "", &"x".repeat(100_000))).await;
    assert!(said.starts_with("GET http://HOST/api: 500 Internal Server Error: xxx"), "{said}");
    assert!(said.ends_with("…; the server has a problem of its own: its log says more"), "{said}");
    assert!(said.chars().count() < 700, "{said}");
    let said = trouble_of(answer("302 Found", "Location: https://sso.example.com/login?a=b\r\n", "")).await;
    assert!(
        said.contains("302, it is at https://sso.example.com/login now, and a login is not sent"),
        "{said}"
    );
    let said = trouble_of(ok(&"x".repeat(1_025))).await;
    let wanted = "GET http://HOST/api: the answer has more than 1024 bytes; nothing of it is used. Ask for less at \
                  a time, or raise `max_answer`";
    assert_eq!(said, wanted);
    let said = trouble_of("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n[1,2".to_owned()).await;
    assert!(said.starts_with("GET http://HOST/api: the answer broke off after 4 bytes ("), "{said}");
    assert!(said.ends_with("nothing of it is used"), "{said}");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n[1,2\r\n".to_owned();
    let said = trouble_of(chunked).await;
    assert!(said.contains("the answer broke off after 4 bytes"), "{said}");
    let said = trouble_of(String::new()).await;
    assert!(said.starts_with("GET http://HOST/api: the connection ended before an answer came ("), "{said}");
    let said = trouble_of("SSH-2.0-OpenSSH_9.2\r\n".to_owned()).await;
    assert!(said.starts_with("GET http://HOST/api: "), "{said}");
}

#[tokio::test]
async fn what_is_not_json_is_told_with_its_beginning() {
    for (body, words) in [
        ("<html><title>Log in</title>", "is not JSON: expected value at line 1 column 1; it says: Log in"),
        ("", "is not JSON: EOF while parsing a value at line 1 column 0; it is empty"),
        ("[1,", "is not JSON: EOF while parsing a value at line 1 column 3; it says: [1,"),
    ] {
        let (address, _) = serve(vec![answer("200 OK", "Content-Type: text/html\r\n", body)]);
        let answer = ask(&web(&format!("url: http://{address}/"))).await.unwrap();
        let said = answer.json::<serde_json::Value>().unwrap_err().to_string();
        assert_eq!(said, format!("GET http://{address}/: the answer (text/html) {words}"));
    }
}

#[tokio::test]
async fn who_can_not_be_reached_or_is_silent_is_told() {
    let (address, _) = serve(vec![]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = listener.local_addr().unwrap();
    drop(listener);
    let said = ask(&web(&format!("url: http://{free}/"))).await.unwrap_err().to_string();
    let wanted = format!(
        "GET http://{free}/: can't be reached: Connection refused (os error 111); is it running, and \
                          is `url` right?"
    );
    assert_eq!(said, wanted);
    // It accepts, since the system does that for it, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().map(|address| (silent, address)).unwrap();
    let said = ask(&web(&format!("url: http://{}/\ntimeout: 1s", silent.1))).await.unwrap_err().to_string();
    let wanted = format!(
        "GET http://{}/: no whole answer within 1 s; nothing of it is used. Ask for less at a time, \
                          or raise `timeout`",
        silent.1
    );
    assert_eq!(said, wanted);
    let said = ask(&web(&format!("url: https://{address}/\ntls: {{ ca_file: /nowhere/ca.pem }}"))).await;
    assert_eq!(
        said.unwrap_err().to_string(),
        "`tls.ca_file` can't be used: /nowhere/ca.pem: No such file or directory (os error 2)"
    );
    let said = ask(&web("url: https://127.0.0.1:1/\nauth: { token_file: /nowhere/token }")).await;
    assert_eq!(
        said.unwrap_err().to_string(),
        "the token file /nowhere/token cannot be read: No such file or directory (os error 2)"
    );
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_server_alone() {
    let moved = answer("301 Moved Permanently", "Location: /b/\r\n", "");
    let (address, heard) = serve(vec![moved.clone(), ok("[]")]);
    let answer = ask(&web(&format!("url: http://{address}/b"))).await.unwrap();
    assert_eq!((answer.url.path(), answer.body.as_slice()), ("/b/", &b"[]"[..]));
    assert!(heard.join().unwrap()[1].starts_with("GET /b/ "));
    let (address, _) = serve(vec![moved.clone(); MOST_HOPS + 1]);
    let said = ask(&web(&format!("url: http://{address}/b"))).await.unwrap_err().to_string();
    assert!(said.contains("redirects without end"), "{said}");
    let (address, heard) = serve(vec![moved]);
    let web = web(&format!("url: http://{address}/b"));
    web.open().unwrap().ask(&Ask::post_json(web.url().clone(), b"{}".to_vec())).await.unwrap_err();
    assert_eq!(heard.join().unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_that_was_replaced_while_it_was_refused_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let token = file(&folder, "token", "old");
    let refused = answer("401 Unauthorized", "", "");
    let (address, heard) = serve(vec![refused.clone(), ok("[]")]);
    let web = web(&format!("url: http://{address}/\nauth: {{ token_file: {} }}", token.display()));
    let session = web.open().unwrap();
    let old = session.proof(None).await.unwrap();
    std::fs::write(&token, "new").unwrap();
    let ask = Ask::get(web.url().clone());
    assert_eq!(session.exchange(&ask, &[], &old).await.unwrap().0, 401);
    let renewed = session.renewed(&old).await.unwrap().unwrap();
    assert_eq!(session.exchange(&ask, &[], &renewed).await.unwrap().0, 200);
    assert!(session.renewed(&renewed).await.unwrap().is_none());
    let heard = heard.join().unwrap();
    assert!(heard[0].contains("Bearer old") && heard[1].contains("Bearer new"), "{heard:?}");
}

fn token(token: &str, life: &str) -> String {
    ok(&format!(r#"{{"access_token":"{token}","token_type":"bearer"{life}}}"#))
}

fn oauth2(address: &str, folder: &tempfile::TempDir, more: &str) -> Web {
    let secret = file(folder, "secret", "a&b\n");
    web(&format!(
        "url: http://{address}/api\nauth:\n  oauth2:\n    token_url: http://{address}/token\n    client_id: me\n    \
         client_secret_file: {}\n    scope: read\n{more}",
        secret.display()
    ))
}

#[tokio::test]
async fn an_oauth2_token_is_kept_and_fetched_once_more_when_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let life = r#","expires_in":3600"#;
    let refused = answer("401 Unauthorized", "", "");
    let (address, heard) = serve(vec![
        token("one", life),
        ok("1"),
        ok("2"),
        refused.clone(),
        token("two", life),
        ok("3"),
        refused.clone(),
        token("three", life),
        answer("401 Unauthorized", "", "not three"),
    ]);
    let web = oauth2(&address, &folder, "");
    for body in ["1", "2", "3"] {
        assert_eq!(ask(&web).await.unwrap().body, body.as_bytes());
    }
    let said = ask(&web).await.unwrap_err().to_string();
    assert!(said.contains("401 Unauthorized: not ***; the login is wrong or has expired"), "{said}");
    let heard = heard.join().unwrap();
    // printf 'me:a%26b' | base64
    assert!(heard[0].contains("authorization: Basic bWU6YSUyNmI=\r\n"), "{}", heard[0]);
    assert!(heard[0].ends_with("\r\n\r\ngrant_type=client_credentials&scope=read"), "{}", heard[0]);
    for (index, bearer) in [(1, "one"), (2, "one"), (3, "one"), (5, "two"), (6, "two"), (8, "three")] {
        assert!(heard[index].contains(&format!("authorization: Bearer {bearer}\r\n")), "{}", heard[index]);
    }
}

#[tokio::test]
async fn an_oauth2_server_that_refuses_is_told_and_a_token_of_unknown_life_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (address, heard) = serve(vec![token("one", ""), ok("1"), token("two", ""), ok("2")]);
    let web = oauth2(&address, &folder, "    send_secret_in: body");
    for body in ["1", "2"] {
        assert_eq!(ask(&web).await.unwrap().body, body.as_bytes());
    }
    let heard = heard.join().unwrap();
    assert!(heard[0].ends_with("&client_id=me&client_secret=a%26b"), "{}", heard[0]);
    assert!(!heard[0].contains("authorization"));
    assert!(heard[3].contains("Bearer two"));

    let words = r#"{"error":"invalid_client","error_description":"a&b is wrong"}"#;
    let (address, _) = serve(vec![answer("400 Bad Request", "", words)]);
    let said = ask(&oauth2(&address, &folder, "")).await.unwrap_err().to_string();
    let wanted = format!(
        "POST http://{address}/token: 400 Bad Request: error: invalid_client; error_description: *** is wrong; the \
         login is wrong or has expired: look at the file {}",
        folder.path().join("secret").display()
    );
    assert_eq!(said, wanted);
}

fn login(address: &str, folder: &tempfile::TempDir, found: &str) -> Web {
    let secret = file(folder, "secret", "pa\"ss\n");
    web(&format!(
        "url: http://{address}/api\nauth:\n  login:\n    url: http://{address}/login\n    body: {{ user: agent, password: \
         '{{secret}}', n: [1, true] }}\n    secret_file: {}\n    {found}",
        secret.display()
    ))
}

#[tokio::test]
async fn an_apis_own_login_is_made_once_and_again_when_its_token_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = answer("401 Unauthorized", "", "");
    let given = |token: &str| answer("201 Created", &format!("X-Subject-Token: {token}\r\n"), "{}");
    let (address, heard) = serve(vec![
        given("one"),
        ok("1"),
        ok("2"),
        refused.clone(),
        given("two"),
        ok("3"),
        refused.clone(),
        given("two"),
        refused,
    ]);
    let web = login(&address, &folder, "token_header: X-Subject-Token\n    send_as: X-Auth-Token");
    for body in ["1", "2", "3"] {
        assert_eq!(ask(&web).await.unwrap().body, body.as_bytes());
    }
    let said = ask(&web).await.unwrap_err().to_string();
    assert!(said.contains("401 Unauthorized; the login is wrong or has expired: look at the file"), "{said}");
    let heard = heard.join().unwrap();
    assert!(heard[0].starts_with("POST /login "), "{}", heard[0]);
    assert!(
        heard[0].ends_with("\r\n\r\n{\"n\":[1,true],\"password\":\"pa\\\"ss\",\"user\":\"agent\"}"),
        "{}",
        heard[0]
    );
    for (index, token) in [(1, "one"), (2, "one"), (3, "one"), (5, "two"), (6, "two"), (8, "two")] {
        assert!(heard[index].contains(&format!("x-auth-token: {token}\r\n")), "{}", heard[index]);
    }
}

#[tokio::test]
async fn a_login_without_a_token_in_its_answer_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (address, heard) = serve(vec![ok(r#"{"data":{"token":"t1"}}"#), ok("1")]);
    ask(&login(&address, &folder, "token_pointer: /data/token")).await.unwrap();
    assert!(heard.join().unwrap()[1].contains("authorization: Bearer t1\r\n"));
    let (address, _) = serve(vec![ok(r#"{"data":{}}"#)]);
    let said = ask(&login(&address, &folder, "token_pointer: /data/token")).await.unwrap_err().to_string();
    let wanted = format!(
        "POST http://{address}/login: the answer to the login has no token: a text at /data/token is missing"
    );
    assert_eq!(said, wanted);
    let (address, _) = serve(vec![answer("403 Forbidden", "", r#"{"m":"pa\"ss is wrong, not pa"}"#)]);
    let said = ask(&login(&address, &folder, "token_pointer: /token")).await.unwrap_err().to_string();
    assert!(said.starts_with(&format!("POST http://{address}/login: 403 Forbidden: ")), "{said}");
    for (keys, words) in [
        (
            "{ url: 'https://k/', secret_env: S, token_pointer: /t, body: { a: b } }",
            "with \"{secret}\" where",
        ),
        (
            "{ url: 'https://k/', secret_env: S, body: { a: '{secret}' } }",
            "say where the answer has the token",
        ),
        (
            "{ url: 'http://k/', secret_env: S, token_pointer: /t, body: { a: '{secret}' } }",
            "plain http would show",
        ),
    ] {
        let problem = problem_of(&format!("url: https://n/\nauth: {{ login: {keys} }}"));
        assert!(problem.contains(words), "{problem}");
    }
}

#[tokio::test]
async fn a_signed_request_is_sent_as_it_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let secret = file(&folder, "secret", "key\n");
    let (address, heard) = serve(vec![ok("[]")]);
    let keys = format!(
        "auth: {{ aws: {{ access_key: AK, secret_key_file: {}, region: default }} }}",
        secret.display()
    );
    ask(&web(&format!("url: http://{address}/admin/usage?start=2026-11-01+00%3A00&a=b\n{keys}")))
        .await
        .unwrap();
    let heard = &heard.join().unwrap()[0];
    assert!(heard.starts_with("GET /admin/usage?a=b&start=2026-11-01%2000%3A00 HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains(&format!("\r\nhost: {address}\r\n")), "{heard}");
    // The hash of nothing.
    let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert!(heard.contains(&format!("x-amz-content-sha256: {hash}\r\n")), "{heard}");
    assert!(heard.contains("authorization: AWS4-HMAC-SHA256 Credential=AK/"), "{heard}");
}
