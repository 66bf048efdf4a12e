//! Signatures of webhooks, as Standard Webhooks has them: HMAC-SHA256 over `id.timestamp.body`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::SinkError;

/// What every key begins with.
const PREFIX: &str = "whsec_";
/// How long a key is, in bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The largest key file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1_024;

/// Signs with one key, or with two while one replaces the other.
pub struct Signer(Vec<Zeroizing<Vec<u8>>>);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("keys", &self.0.len()).finish()
    }
}

impl Signer {
    /// Reads the keys of a sink.
    ///
    /// # Errors
    /// [`SinkError`]; what is in the files is never part of it.
    pub fn read(sink: &str, paths: &[PathBuf]) -> Result<Self, SinkError> {
        paths.iter().map(|path| read(sink, path)).collect::<Result<_, _>>().map(Self)
    }

    /// The header `webhook-signature`: a signature by each key.
    #[must_use]
    pub fn sign(&self, id: &str, seconds: i64, body: &str) -> String {
        let signed = |key: &Zeroizing<Vec<u8>>| {
            // HMAC takes keys of any length.
            let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
            mac.update(format!("{id}.{seconds}.").as_bytes());
            mac.update(body.as_bytes());
            Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
        };
        self.0.iter().filter_map(signed).collect::<Vec<_>>().join(" ")
    }
}

fn read(sink: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, SinkError> {
    let (sink, path) = (sink.to_owned(), path.to_owned());
    let meta = match std::fs::metadata(&path) {
        Ok(meta) => meta,
        Err(source) => return Err(SinkError::Read { sink, path, source }),
    };
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(SinkError::Exposed { sink, path });
    }
    if !meta.is_file() || meta.len() > MAX_FILE_BYTES {
        return Err(SinkError::Malformed { sink, path });
    }
    let text = match std::fs::read(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(source) => return Err(SinkError::Read { sink, path, source }),
    };
    key(&text).ok_or(SinkError::Malformed { sink, path })
}

fn key(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let encoded = std::str::from_utf8(text).ok()?.trim_end().strip_prefix(PREFIX)?;
    let key = Zeroizing::new(STANDARD.decode(encoded).ok()?);
    KEY_BYTES.contains(&key.len()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's reference implementations.
    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_signature_is_that_of_the_reference_implementations() {
        let signer = Signer(vec![key(KEY.as_bytes()).unwrap()]);
        let signed = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_keys_sign_apart() {
        let other = format!("whsec_{}", STANDARD.encode([7; 32]));
        let signer = Signer(vec![key(KEY.as_bytes()).unwrap(), key(other.as_bytes()).unwrap()]);
        let signed = signer.sign("id", 1, "{}");
        let parts: Vec<&str> = signed.split(' ').collect();
        assert!(parts.len() == 2 && parts[0] != parts[1] && parts.iter().all(|part| part.starts_with("v1,")));
        assert_eq!(format!("{signer:?}"), "Signer { keys: 2 }");
    }

    #[test]
    fn a_key_that_is_none_or_that_others_can_read_is_refused_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook.key");
        let read = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Signer::read("hook", std::slice::from_ref(&path)).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(read(&format!("{KEY}\n"), 0o600), Ok(()));
        assert!(read(KEY, 0o640).unwrap_err().contains("can be read by others"));
        for bad in [
            "",
            "whsec_",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_AAAA",
            "whsec_!!",
            "whsec_\u{e9}",
            KEY.repeat(99).as_str(),
        ] {
            let error = read(bad, 0o600).unwrap_err();
            assert!(error.contains("does not hold `whsec_`") && !error.contains("MfKQ9"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Signer::read("hook", &[path]), Err(SinkError::Read { .. })));
    }
}
