//! One request, in the words that the API looks at. What it means is decided in `api`.

#[derive(Clone, Debug)]
pub(crate) struct Request {
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

impl Request {
    /// Path and query.
    pub(crate) fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }
}
