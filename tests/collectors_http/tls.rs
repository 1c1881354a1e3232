//! Over TLS: whom the collector trusts, what it shows, and what is said when either is not enough.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::agent::*;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client_tls").join(name)
}

/// A server for one connection, with the certificate for 127.0.0.1 and localhost of an authority made for tests.
fn serve(wants_certificate: bool) -> u16 {
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
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
        let _ = stream.read(&mut [0; 4096]);
        let body = r#"{"rows":[{"p":"project-a","v":7}]}"#;
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.flush();
    });
    port
}

fn collect(port: u16, tls: &str) -> (i32, serde_json::Value) {
    let world = World::new(CURRENT);
    let keys = format!(
        "collectors:\n  api:\n    plugin: http\n    schedule: \"@hourly\"\n    url: https://127.0.0.1:{port}/\n    \
         timeout: 5s\n{tls}    requests:\n      rows:\n        each: {{ row: answer.rows }}\n        \
         labels: {{ project: row.p }}\n        readings:\n          used: {{ kind: gauge, value: row.v }}\n    \
         resource: {A}\n    meters: {{ cpu_hours: {{ reading: used, aggregate: last }} }}\n"
    );
    world.write("agent.yaml", &(world.head("") + &keys));
    let done = world.agent(&["collect", "--json"]);
    (done.code, done.json()["collectors"][0].clone())
}

fn error(port: u16, tls: &str) -> String {
    let (code, collector) = collect(port, tls);
    assert_eq!(code, 69, "{collector:#}");
    collector["error"].as_str().unwrap().replace(&port.to_string(), "PORT")
}

fn trusting(ca: &str, more: &str) -> String {
    format!("    tls: {{ ca_file: {}{more} }}\n", file(ca).display())
}

#[test]
fn a_server_of_the_named_authority_is_trusted_and_no_other() {
    let (code, collector) = collect(serve(false), &trusting("ca.pem", ""));
    assert_eq!((code, collector["readings"][0]["value"].as_str()), (0, Some("7")), "{collector:#}");
    for tls in [String::new(), trusting("other.pem", "")] {
        assert_eq!(
            error(serve(false), &tls),
            "request rows: GET https://127.0.0.1:PORT/: TLS failed: invalid peer certificate: UnknownIssuer; if an \
             authority of your own signed the server's certificate, name it in `tls.ca_file`, and use the host name \
             that the certificate is for"
        );
    }
}

#[test]
fn a_certificate_is_shown_where_it_is_asked_for() {
    let shown = format!(
        ", client_certificate_file: {}, client_key_file: {}",
        file("agent.pem").display(),
        file("agent.key").display()
    );
    let (code, collector) = collect(serve(true), &trusting("ca.pem", &shown));
    assert_eq!(code, 0, "{collector:#}");
    let said = error(serve(true), &trusting("ca.pem", ""));
    assert!(
        said.starts_with("request rows: GET https://127.0.0.1:PORT/: TLS failed: received fatal alert"),
        "{said}"
    );
    assert!(
        said.ends_with("; if the server asks for a certificate, name one in `tls.client_certificate_file`"),
        "{said}"
    );
}

#[test]
fn a_port_without_tls_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        // Until the other side has had enough of it.
        let _ = stream.read(&mut [0; 4096]);
    });
    let said = error(port, &trusting("ca.pem", ""));
    assert!(said.contains("TLS failed: ") && said.ends_with("; does this port speak TLS?"), "{said}");
}
