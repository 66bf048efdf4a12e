//! Whom a capability is bound to: wire to domain and back.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_core::{Digest, HolderKind};
use countersign_token::holder_of_key;

use super::errors::Failure;
use crate::proto::Holder;
use crate::proto::holder::Holder as Named;

/// The holder that a caller names.
pub fn holder_to_bind(Holder { holder }: Holder) -> Result<countersign_core::Holder, Failure> {
    match holder {
        Some(Named::CertificateThumbprint(text)) => Ok(countersign_core::Holder {
            kind: HolderKind::Certificate,
            thumbprint: thumbprint("holder.certificate_thumbprint", &text)?,
        }),
        Some(Named::KeyThumbprint(text)) => Ok(countersign_core::Holder {
            kind: HolderKind::Key,
            thumbprint: thumbprint("holder.key_thumbprint", &text)?,
        }),
        Some(Named::PublicKey(key)) => {
            holder_of_key(&key).map_err(|error| Failure::field("holder.public_key", error.to_string()))
        }
        None => Err(Failure::field("holder", "it names nobody; send a thumbprint or a public key, or no holder")),
    }
}

fn thumbprint(field: &'static str, text: &str) -> Result<Digest, Failure> {
    let bytes: Option<[u8; 32]> = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    let wrong = || Failure::field(field, "expected a SHA-256 in base64url without padding, 43 characters");
    bytes.map(Digest::from_bytes).ok_or_else(wrong)
}

/// The holder, as capabilities tell of them.
#[must_use]
pub fn holder(holder: countersign_core::Holder) -> Holder {
    let thumbprint = URL_SAFE_NO_PAD.encode(holder.thumbprint.as_bytes());
    let named = match holder.kind {
        HolderKind::Certificate => Named::CertificateThumbprint(thumbprint),
        HolderKind::Key => Named::KeyThumbprint(thumbprint),
    };
    Holder { holder: Some(named) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_comes_back_as_it_was_named() {
        let bound = countersign_core::Holder { kind: HolderKind::Certificate, thumbprint: Digest::of(b"der") };
        assert_eq!(holder_to_bind(holder(bound)).unwrap(), bound);
        let key = countersign_token::HolderKey::generate().unwrap();
        let named = Holder { holder: Some(Named::PublicKey(key.public().to_vec())) };
        let bound = holder_to_bind(named).unwrap();
        assert_eq!(bound, key.holder());
        assert_eq!(holder_to_bind(holder(bound)).unwrap(), bound);
    }

    #[test]
    fn nobody_is_no_holder() {
        let hex = Digest::of(b"der").to_string();
        for named in [
            None,
            Some(Named::KeyThumbprint(String::new())),
            Some(Named::CertificateThumbprint(hex)),
            Some(Named::PublicKey(vec![0; 32])),
            Some(Named::PublicKey(Vec::new())),
        ] {
            assert!(holder_to_bind(Holder { holder: named }).is_err());
        }
    }
}
