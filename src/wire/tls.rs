//! Whom to trust and what to show when a connection is made, and what a failed one said.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::{ClientBuilder, Url};

use super::words::clean;

/// The files of the configuration that decide it. They are read when a client is made.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// A certificate to show and its key, both PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// Which of the files can't be used, and why.
#[derive(Debug)]
pub struct Unusable {
    pub file: File,
    pub words: String,
}

/// The files by what they are for; each caller knows by which key it was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    Authorities,
    Certificate,
    Key,
}

impl Trust {
    /// The builder with all that, for connections to `url`.
    pub fn apply(&self, mut builder: ClientBuilder, url: &Url) -> Result<ClientBuilder, Unusable> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Lost a race with another client: then the same provider is there already.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        if url.scheme() != "https" {
            // The system's authorities are of no use here, and a container may have none to load.
            builder = builder.tls_certs_only([]);
        } else if let Some(path) = &self.ca_file {
            let pem = read(File::Authorities, path)?;
            let bundle = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| unusable(File::Authorities, path, innermost(&error)))?;
            if bundle.is_empty() {
                return Err(unusable(File::Authorities, path, "no certificate in it".to_owned()));
            }
            builder = builder.tls_certs_only(bundle);
        }
        if let Some((certificate, key)) = &self.client_certificate {
            let mut pem = read(File::Certificate, certificate)?;
            pem.push(b'\n');
            pem.extend(read(File::Key, key)?);
            let identity = reqwest::Identity::from_pem(&pem)
                .map_err(|error| unusable(File::Certificate, certificate, innermost(&error)))?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }
}

fn read(file: File, path: &Path) -> Result<Vec<u8>, Unusable> {
    fs::read(path).map_err(|error| unusable(file, path, error.to_string()))
}

fn unusable(file: File, path: &Path, words: String) -> Unusable {
    Unusable { file, words: format!("{}: {words}", path.display()) }
}

/// The cause that says most: the last in the chain.
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    clean(&deepest.to_string())
}

/// The TLS error in a chain of causes. An `io::Error` hides what it wraps from `source`, so it is opened.
pub fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match wrapped {
        Some(inner) => tls_error(inner),
        None => error.source().and_then(tls_error),
    }
}
