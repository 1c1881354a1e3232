//! Answers in the shapes that the real server gives them, and the pages it shows when it breaks.
//!
//! Texts that depend on a request are made where they are decided; only translations live here, and only the
//! two that have been observed (A §1): enough to notice a client that matches text and forgets to ask for English.

use serde_json::{Value, json};

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("Content-Type".into(), "application/json".into())];
        Self { status, headers, body: body.to_string().into_bytes() }
    }

    fn html(status: u16, body: String) -> Self {
        let headers = vec![("Content-Type".into(), "text/html; charset=utf-8".into())];
        Self { status, headers, body: body.into_bytes() }
    }

    /// 201 and nothing in it: no body, no Content-Type (A §1).
    pub(crate) fn done() -> Self {
        Self { status: 201, headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn detail(status: u16, text: &str) -> Self {
        Self::json(status, &json!({ "detail": text }))
    }

    pub(crate) fn refused(body: &Value) -> Self {
        Self::json(400, body)
    }

    /// A refusal of one field.
    pub(crate) fn field(name: &str, text: &str) -> Self {
        Self::refused(&json!({ name: [text] }))
    }

    pub(crate) fn unauthorized(text: &str) -> Self {
        Self::detail(401, text).header("WWW-Authenticate", "Token")
    }

    pub(crate) fn forbidden() -> Self {
        Self::detail(403, "You do not have permission to perform this action.")
    }

    /// 145 bytes of HTML, the same for what is permanent and what is not (A, head of the part).
    pub(crate) fn broken() -> Self {
        let page = "\n<!doctype html>\n<html lang=\"en\">\n<head>\n  <title>Server Error (500)</title>\n</head>\n\
                    <body>\n  <h1>Server Error (500)</h1><p></p>\n</body>\n</html>\n";
        Self::html(500, page.into())
    }

    /// What is at no address of the server.
    pub(crate) fn no_page() -> Self {
        let page = "\n<!doctype html>\n<html lang=\"en\">\n<head>\n  <title>Not Found</title>\n</head>\n<body>\n  \
                    <h1>Not Found</h1><p>The requested resource was not found on this server.</p>\n</body>\n</html>\n";
        Self::html(404, page.into())
    }

    pub(crate) fn moved(to: String) -> Self {
        let mut answer = Self::html(301, String::new());
        answer.headers.push(("Location".into(), to));
        answer
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The texts of an error in the language that the client prefers.
    pub(crate) fn translated(mut self, accept_language: Option<&str>) -> Self {
        let preferred = accept_language.unwrap_or("en").split([',', ';', '-']).next().unwrap_or("en").trim();
        let words: &[(&str, &str)] = match preferred.to_ascii_lowercase().as_str() {
            "et" => &[("This field is required.", "Väli on kohustuslik.")],
            "de" => &[("Invalid token.", "Ungültiges Token")],
            _ => return self,
        };
        if self.status < 400 {
            return self;
        }
        let Ok(mut text) = String::from_utf8(self.body.clone()) else { return self };
        for (english, other) in words {
            text = text.replace(&format!("\"{english}\""), &format!("\"{other}\""));
        }
        self.body = text.into_bytes();
        self
    }
}
