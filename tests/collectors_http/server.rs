//! A small HTTP server that answers each request as the test's function says, and remembers what it was asked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What was asked: `GET /path?query`, the headers as they came, and the body.
#[derive(Debug, Clone)]
pub struct Heard {
    pub line: String,
    pub head: String,
    pub body: String,
}

impl Heard {
    pub fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(header))
    }
}

/// Status with its words, further headers (each with its line end), body.
pub type Said = (&'static str, String, String);

pub fn json(body: impl Into<String>) -> Said {
    ("200 OK", String::new(), body.into())
}

/// Nothing is said, and the connection stays open.
pub fn silence() -> Said {
    ("", String::new(), String::new())
}

pub struct Server {
    pub address: String,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Heard) -> Said + Send + 'static) -> Server {
        Server::of_bytes(move |heard| {
            let (status, headers, body) = answer(heard);
            (status, headers, body.into_bytes())
        })
    }

    /// The body is what bytes it is; headers that name a content type have it in place of JSON's.
    pub fn of_bytes(answer: impl Fn(&Heard) -> (&'static str, String, Vec<u8>) + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let noted = heard.clone();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(asked) = read(&mut stream) else { continue };
                let (status, headers, body) = answer(&asked);
                noted.lock().unwrap().push(asked);
                if status.is_empty() {
                    silent.push(stream);
                    continue;
                }
                let length = body.len();
                let json = "Content-Type: application/json; charset=utf-8\r\n";
                let kind = if headers.contains("Content-Type: ") { "" } else { json };
                let head = format!(
                    "HTTP/1.1 {status}\r\nConnection: close\r\n{kind}Content-Length: {length}\r\n{headers}\r\n"
                );
                let _ = stream.write_all(&[head.as_bytes(), &body].concat());
            }
        });
        Server { address, heard }
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.heard().into_iter().map(|heard| heard.line).collect()
    }
}

fn read(stream: &mut TcpStream) -> Option<Heard> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase();
            let length =
                length.lines().find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
            if length.is_none_or(|length| body.len() >= length.trim().parse().unwrap()) {
                let (line, head) = head.split_once("\r\n")?;
                let line = line.trim_end_matches(" HTTP/1.1").to_owned();
                return Some(Heard { line, head: head.to_owned(), body: body.to_owned() });
            }
        }
        match stream.read(&mut chunk) {
            Ok(read) if read > 0 => bytes.extend_from_slice(&chunk[..read]),
            _ => return None,
        }
    }
}
