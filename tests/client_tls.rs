//! The client over TLS: whom it trusts, what it shows, and that nobody else hears the token. The certificates in
//! `client_tls/` were made for these tests alone.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use waldur_usage_agent::config::clock::SystemClock;
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::config::waldur::WaldurSettings;
use waldur_usage_agent::waldur::client::Client;
use waldur_usage_agent::waldur::failure::Failure;
use waldur_usage_agent::waldur::types::Me;

const BODY: &str = r#"{"uuid":"5e2f0000000040008000000000000001","username":"provider"}"#;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client_tls").join(name)
}

/// A server for one connection; ends with what it heard.
fn serve(address: &str, wants_certificate: bool) -> (u16, JoinHandle<String>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = match wants_certificate {
        true => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.unwrap().with_client_cert_verifier(verifier.build().unwrap())
        }
        false => builder.unwrap().with_no_client_auth(),
    };
    let chain = vec![CertificateDer::from_pem_file(file("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).unwrap_or(0);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
        let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{BODY}", BODY.len());
        let _ = stream.flush();
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    });
    (port, heard)
}

async fn ask(address: &str, keys: &str) -> Result<Me, Failure> {
    static TOKEN: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("client-tls-token");
        std::fs::write(&path, "s3cret").unwrap();
        path
    });
    let text = format!("url: https://{address}\ntoken_file: {}\ntimeout: 5s\n{keys}", TOKEN.display());
    let (mut section, problems) = Section::parse(&text);
    let settings = WaldurSettings::from_section(&mut section);
    let settings = settings.unwrap_or_else(|| panic!("{:?}", problems.list()));
    Client::new(&settings, Arc::new(SystemClock)).unwrap().me().await
}

fn trusting(ca: &str) -> String {
    format!("ca_file: {}\n", file(ca).display())
}

#[tokio::test]
async fn a_server_of_the_named_authority_is_trusted() {
    for host in ["127.0.0.1", "localhost"] {
        let (port, heard) = serve("127.0.0.1", false);
        let me = ask(&format!("{host}:{port}"), &trusting("ca.pem")).await.unwrap();
        assert_eq!(me.username, "provider");
        assert!(heard.join().unwrap().contains("Token s3cret"));
    }
}

#[tokio::test]
async fn a_server_of_another_authority_hears_nothing() {
    let (port, heard) = serve("127.0.0.1", false);
    let failure = ask(&format!("127.0.0.1:{port}"), &trusting("other.pem")).await.unwrap_err();
    assert_eq!(failure.name(), "certificate", "{failure:?}");
    assert!(failure.to_string().contains("invalid peer certificate"), "{failure}");
    assert_eq!(heard.join().unwrap(), "");
}

#[tokio::test]
async fn a_server_with_a_certificate_for_another_name_hears_nothing() {
    let (port, heard) = serve("127.0.0.2", false);
    let failure = ask(&format!("127.0.0.2:{port}"), &trusting("ca.pem")).await.unwrap_err();
    assert_eq!(failure.name(), "certificate", "{failure:?}");
    assert_eq!(heard.join().unwrap(), "");
}

#[tokio::test]
async fn a_certificate_is_shown_where_one_is_wanted() {
    let keys = format!(
        "{}client_cert_file: {}\nclient_key_file: {}\n",
        trusting("ca.pem"),
        file("agent.pem").display(),
        file("agent.key").display()
    );
    let (port, heard) = serve("127.0.0.1", true);
    ask(&format!("127.0.0.1:{port}"), &keys).await.unwrap();
    assert!(heard.join().unwrap().contains("Token s3cret"));

    let (port, heard) = serve("127.0.0.1", true);
    let failure = ask(&format!("127.0.0.1:{port}"), &trusting("ca.pem")).await.unwrap_err();
    assert_eq!(failure.name(), "certificate", "{failure:?}");
    assert_eq!(heard.join().unwrap(), "");
}
