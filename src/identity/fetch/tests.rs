use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::*;

/// An authority of our own, as a cluster has one.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn pem(authority: &CertifiedIssuer<'static, KeyPair>) -> String {
    AsRef::<rcgen::Certificate>::as_ref(authority).pem()
}

/// A server with a certificate of `authority` for `name`, that answers the head of each request as the body.
async fn server(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (Url, tokio::task::JoinHandle<()>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://127.0.0.1:{}/keys", listener.local_addr().unwrap().port())).unwrap();
    let serve = async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", head.len());
            stream.write_all(&[answer.as_bytes(), &head].concat()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    };
    (url, tokio::spawn(serve))
}

struct Files(tempfile::TempDir);

impl Files {
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

#[tokio::test]
async fn a_private_authority_vouches_for_an_issuer_and_no_other_does() {
    let (ours, theirs) = (authority(), authority());
    let files = Files(tempfile::tempdir().unwrap());
    let ca = files.write("ca.pem", &pem(&ours));
    let (url, served) = server(&ours, "127.0.0.1").await;
    let (elsewhere, served_elsewhere) = server(&ours, "idp.example.com").await;
    let fetch = async |url: &Url, ca: Option<&Path>| get(&client(url, ca)?, url, None).await;
    assert!(fetch(&url, Some(&ca)).await.is_ok());
    // By another authority, in another name, and by those of the operating system.
    let other = files.write("other.pem", &pem(&theirs));
    for (url, ca) in [(&url, Some(&other)), (&elsewhere, Some(&ca)), (&url, None)] {
        let refused = fetch(url, ca.map(PathBuf::as_path)).await;
        assert!(matches!(refused, Err(FetchError::Connect { .. } | FetchError::Tls(_))), "{refused:?}");
    }
    for (text, expected) in [("", "holds no certificate"), ("nonsense", "holds no certificate")] {
        let bad = files.write("bad.pem", text);
        let refused = fetch(&url, Some(&bad)).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
    let missing = fetch(&url, Some(Path::new("/nowhere/ca.pem"))).await;
    assert!(matches!(missing, Err(FetchError::File { key: "ca", .. })), "{missing:?}");
    // The file is read for each fetch: a new authority counts without a restart.
    std::fs::write(&other, pem(&ours)).unwrap();
    assert!(fetch(&url, Some(&other)).await.is_ok());
    served.abort();
    served_elsewhere.abort();
}

#[tokio::test]
async fn a_token_from_a_file_is_sent_and_never_shown() {
    let ours = authority();
    let files = Files(tempfile::tempdir().unwrap());
    let ca = files.write("ca.pem", &pem(&ours));
    let (url, served) = server(&ours, "127.0.0.1").await;
    let token = bearer(&files.write("token", "s3cret.of.cluster\n")).unwrap();
    assert!(!format!("{token:?}").contains("s3cret"));
    let head = get(&client(&url, Some(&ca)).unwrap(), &url, Some(token)).await.unwrap();
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.contains("authorization: bearer s3cret.of.cluster\r\n"), "{head}");
    let head = get(&client(&url, Some(&ca)).unwrap(), &url, None).await.unwrap();
    assert!(!String::from_utf8(head).unwrap().to_ascii_lowercase().contains("authorization"));
    for text in ["", " \n", "two words", "new\nline", "nul\0"] {
        let refused = bearer(&files.write("token", text)).map(drop);
        assert!(matches!(refused, Err(FetchError::Token)), "{text:?}");
    }
    served.abort();
}
