use rcgen::{CertifiedKey as Made, generate_simple_self_signed};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData,
    SupportedProtocolVersion, version,
};

use super::*;

/// Offers a certificate, whatever is asked for.
#[derive(Debug)]
struct Offers(Arc<CertifiedKey>);

impl ResolvesClientCert for Offers {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn made() -> Made<rcgen::KeyPair> {
    generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap()
}

fn private(made: &Made<rcgen::KeyPair>) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap()
}

/// Hands over what one side has to say.
fn pass<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
) -> Result<(), rustls::Error> {
    let mut said = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut said).unwrap();
    }
    let mut said = said.as_slice();
    while !said.is_empty() {
        to.read_tls(&mut said).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

/// A handshake of somebody who shows one certificate and signs with the key of another.
fn handshake(
    shown: &Made<rcgen::KeyPair>,
    signs: &Made<rcgen::KeyPair>,
    version: &'static SupportedProtocolVersion,
) -> Result<(), rustls::Error> {
    let own = made();
    let server = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[version])?
        .with_client_cert_verifier(Arc::new(Possession::new()))
        .with_single_cert(vec![own.cert.der().clone()], private(&own))?;
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone())?;
    let key = provider().key_provider.load_private_key(private(signs))?;
    let offered = CertifiedKey::new(vec![shown.cert.der().clone()], key);
    let client = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Offers(Arc::new(offered))));
    let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap())?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
    }
    assert_eq!(server.peer_certificates().unwrap(), [shown.cert.der().clone()]);
    Ok(())
}

#[test]
fn whoever_shows_a_certificate_has_its_key() {
    let (own, stolen) = (made(), made());
    for version in [&version::TLS12, &version::TLS13] {
        handshake(&own, &own, version).unwrap();
        let refused = handshake(&stolen, &own, version).unwrap_err();
        assert_eq!(refused, rustls::Error::InvalidCertificate(CertificateError::BadSignature), "{version:?}");
    }
}
