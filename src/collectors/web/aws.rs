//! Signs a request as S3 and its kin want it (AWS Signature Version 4): Ceph's object gateway and MinIO take their
//! administrators' requests so.
//!
//! What is signed is what is sent: the address is written anew in the only form that a server reads back the same.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use reqwest::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};

use crate::config::digest::{hex, sha256};

const HASH: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SIGNED: &str = "host;x-amz-content-sha256;x-amz-date";

/// Who signs, and for which service.
#[derive(Debug, Clone)]
pub(in crate::collectors::web) struct Signer {
    pub(super) access_key: String,
    pub(super) region: String,
    pub(super) service: String,
}

impl Signer {
    /// Adds the signature's headers and brings the address' query into its signed form.
    pub(super) fn sign(
        &self,
        secret: &SecretString,
        now: Timestamp,
        (method, url, body): (&Method, &mut Url, &[u8]),
        headers: &mut HeaderMap,
    ) -> Result<(), String> {
        let at =
            |form| jiff::fmt::strtime::format(form, &now.to_zoned(TimeZone::UTC)).map_err(|e| e.to_string());
        let (instant, day) = (at("%Y%m%dT%H%M%SZ")?, at("%Y%m%d")?);
        let mut pairs: Vec<_> = url.query_pairs().map(|(k, v)| (encoded(&k), encoded(&v))).collect();
        pairs.sort();
        let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        let query = pairs.join("&");
        url.set_query((!query.is_empty()).then_some(query.as_str()));
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
        let hash = sha256(body);
        let canonical = format!(
            "{method}\n{}\n{query}\nhost:{host}\nx-amz-content-sha256:{hash}\nx-amz-date:{instant}\n\n{SIGNED}\n{hash}",
            url.path()
        );
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let canonical = sha256(canonical.as_bytes());
        let to_sign = format!("AWS4-HMAC-SHA256\n{instant}\n{scope}\n{canonical}");
        let mut key = format!("AWS4{}", secret.expose_secret()).into_bytes();
        for part in [&day, &self.region, &self.service, "aws4_request"] {
            key = mac(&key, part);
        }
        let signature = hex(&mac(&key, &to_sign));
        let credential = format!("{}/{scope}", self.access_key);
        let mut insert = |name: HeaderName, value: &str| {
            let value =
                HeaderValue::from_str(value).map_err(|_| "the login can't be sent in a header".to_owned())?;
            headers.insert(name, value);
            Ok::<_, String>(())
        };
        insert(HOST, &host)?;
        insert(HASH, &hash)?;
        insert(DATE, &instant)?;
        insert(
            AUTHORIZATION,
            &format!(
                "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={SIGNED}, Signature={signature}"
            ),
        )
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Everything but letters, digits and `-._~` as %XX (RFC 3986, the unreserved characters).
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of Amazon's own page, "Signature Calculations for the Authorization Header".
    #[test]
    fn a_signature_is_that_of_the_published_examples() {
        let signer = Signer {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            region: "us-east-1".into(),
            service: "s3".into(),
        };
        let secret = SecretString::from("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let now = "2013-05-24T00:00:00Z".parse().unwrap();
        for (query, sent, signature) in [
            ("lifecycle", "lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            (
                "prefix=J&max-keys=2",
                "max-keys=2&prefix=J",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let mut url = Url::parse(&format!("https://examplebucket.s3.amazonaws.com/?{query}")).unwrap();
            let mut headers = HeaderMap::new();
            signer.sign(&secret, now, (&Method::GET, &mut url, b""), &mut headers).unwrap();
            assert_eq!(url.query(), Some(sent));
            let header = headers[AUTHORIZATION].to_str().unwrap();
            assert_eq!(
                header,
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
                     SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}"
                )
            );
        }
    }

    #[test]
    fn a_blank_is_sent_as_it_is_signed() {
        let signer = Signer { access_key: "a".into(), region: "r".into(), service: "s3".into() };
        let mut url = Url::parse("http://rgw:8000/admin/usage?start=2026-11-01+10%3A00").unwrap();
        let mut headers = HeaderMap::new();
        let now = "2026-11-05T00:00:00Z".parse().unwrap();
        signer.sign(&"s".into(), now, (&Method::GET, &mut url, b""), &mut headers).unwrap();
        assert_eq!(url.as_str(), "http://rgw:8000/admin/usage?start=2026-11-01%2010%3A00");
        assert_eq!(headers[HOST], "rgw:8000");
    }
}
