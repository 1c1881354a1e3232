//! A server that is only bytes: it says what it is told to and keeps what it was told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

/// What the server does with one request.
#[derive(Clone)]
pub(crate) enum Act {
    Say(String),
    /// Says this and closes.
    SayAndDrop(String),
    Drop,
    Hang,
    /// Says this once as many requests are under way as the barrier is for.
    SayTogether(Arc<Barrier>, String),
    /// Says this again and again.
    Pour(String, &'static str),
}

pub(crate) struct Server {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    pub(crate) connections: Arc<Mutex<usize>>,
}

impl Server {
    /// Acts on the first request as the first of `acts` says, and so on; the last is for all that follow.
    pub(crate) async fn start(acts: Vec<Act>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let server = Server { port, requests: requests.clone(), connections: connections.clone() };
        let acts = Arc::new(acts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *connections.lock().unwrap() += 1;
                tokio::spawn(serve(stream, acts.clone(), requests.clone()));
            }
        });
        server
    }

    pub(crate) async fn saying(answer: impl Into<String>) -> Server {
        Server::start(vec![Act::Say(answer.into())]).await
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, acts: Arc<Vec<Act>>, requests: Arc<Mutex<Vec<String>>>) {
    while let Some(request) = read_request(&mut stream).await {
        let at = {
            let mut requests = requests.lock().unwrap();
            requests.push(request);
            requests.len() - 1
        };
        match acts.get(at).or(acts.last()).cloned().unwrap() {
            Act::Say(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Act::SayAndDrop(text) => return stream.write_all(text.as_bytes()).await.unwrap(),
            Act::Drop => return,
            Act::SayTogether(others, text) => {
                others.wait().await;
                stream.write_all(text.as_bytes()).await.unwrap();
            }
            Act::Hang => tokio::time::sleep(Duration::from_secs(60)).await,
            Act::Pour(head, more) => {
                stream.write_all(head.as_bytes()).await.unwrap();
                while stream.write_all(more.as_bytes()).await.is_ok() {}
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}
