//! The `page:` part of the file: where the page for people is served, and to whom.
//!
//! It shows all customers' bills, so that it is for a group of this machine (a Unix socket) or for who has a token of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::section::Section;

/// Where and to whom the page is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageSettings {
    /// To whoever may open the socket.
    Socket(PathBuf),
    /// To who has the token that is kept in this file.
    Address(SocketAddr, PathBuf),
}

impl PageSettings {
    /// Takes the keys of the section; `None` if any of them is wrong (the problems are recorded). The caller finishes it.
    pub fn from_section(section: &mut Section) -> Option<PageSettings> {
        let about = "where the page is served, such as unix:/run/waldur-usage-agent/page.sock";
        let token_file = section.parse_with("token_file", |text| match Path::new(text) {
            path if path.is_absolute() || text.starts_with("./") => Ok(path.to_owned()),
            _ => Err(format!("`{text}` must be an absolute path")),
        });
        let had_token = section.has("token_file");
        let listen = section.require_with("listen", about, |text| match text.strip_prefix("unix:") {
            Some(path) if Path::new(path).is_absolute() => Ok(Listen::Socket(path.into())),
            Some(path) => Err(format!("`{path}` must be an absolute path")),
            None => text.parse().map(Listen::Address).map_err(|_| {
                format!(
                    "`{text}` is neither an address such as 127.0.0.1:9465 nor unix: and a path such as \
                     unix:/run/waldur-usage-agent/page.sock"
                )
            }),
        })?;
        match (listen, token_file) {
            (Listen::Socket(path), None) if !had_token => Some(PageSettings::Socket(path)),
            (Listen::Socket(_), _) => {
                section.problem("token_file", "a Unix socket needs none: its mode says who may open it");
                None
            }
            (Listen::Address(address), Some(token)) => Some(PageSettings::Address(address, token)),
            (Listen::Address(_), None) => {
                if !had_token {
                    section.problem(
                        "listen",
                        "the page shows all customers' bills, and every user of this machine could read it at an address: \
                         give it a token of its own (`token_file`), or use a Unix socket",
                    );
                }
                None
            }
        }
    }
}

enum Listen {
    Socket(PathBuf),
    Address(SocketAddr),
}
