//! What a public key is good for, by what it is made of. One that only looks like a key would be taken at the start and refuse every
//! credential afterwards, and one that is weak would let others sign.

use aws_lc_rs::rsa::PublicKey;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ParsedPublicKey, VerificationAlgorithm};
use ed25519_dalek::VerifyingKey;
use jsonwebtoken::{AlgorithmFamily, DecodingKey, DecodingKeyKind};

use super::RSA;
use crate::config::Algorithm;

/// The sizes of an RSA modulus, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The largest exponent of an RSA key: of 33 bits.
const MAX_EXPONENT: u64 = (1 << 33) - 1;

/// The algorithms that a key can be used with; none, if it is no sound key.
pub(super) fn suits(key: &DecodingKey) -> &'static [Algorithm] {
    let sound = |algorithms: &'static [Algorithm], sound: bool| if sound { algorithms } else { &[] };
    match (key.family(), key.kind()) {
        (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(bytes)) => sound(&[Algorithm::EdDSA], is_edwards(bytes)),
        // Uncompressed: a byte, and two coordinates.
        (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(bytes)) => match bytes.len() {
            65 => sound(&[Algorithm::ES256], is_point(&ECDSA_P256_SHA256_FIXED, bytes)),
            97 => sound(&[Algorithm::ES384], is_point(&ECDSA_P384_SHA384_FIXED, bytes)),
            _ => &[],
        },
        (AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => sound(RSA, is_rsa(n, e)),
        (AlgorithmFamily::Rsa, DecodingKeyKind::SecretOrDer(der)) => {
            let is_rsa = |key: PublicKey| {
                let (n, e) = (key.modulus(), key.exponent());
                is_rsa(n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero())
            };
            sound(RSA, PublicKey::from_der(der).is_ok_and(is_rsa))
        }
        (AlgorithmFamily::Ed | AlgorithmFamily::Ec, DecodingKeyKind::RsaModulusExponent { .. })
        | (AlgorithmFamily::Hmac, _) => &[],
    }
}

/// How many bits a modulus has, whether that is enough, and not so many that verifying takes long.
pub(super) fn is_large_enough(modulus: &[u8]) -> bool {
    let unused = modulus.first().map_or(0, |first| first.leading_zeros()) as usize;
    RSA_BITS.contains(&modulus.len().saturating_mul(8).saturating_sub(unused))
}

/// Both without leading zeros, as the library wants them.
fn is_rsa(modulus: &[u8], exponent: &[u8]) -> bool {
    let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    let exponent_is_sound = exponent.len() <= 8
        && odd(exponent)
        && (3..=MAX_EXPONENT).contains(&exponent.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
    is_large_enough(modulus) && odd(modulus) && modulus.first() != Some(&0) && exponent_is_sound
}

fn is_point(curve: &'static dyn VerificationAlgorithm, bytes: &[u8]) -> bool {
    ParsedPublicKey::new(curve, bytes).is_ok()
}

/// A point of the curve, and none of the few under which anybody can sign.
fn is_edwards(bytes: &[u8]) -> bool {
    let key = <&[u8; 32]>::try_from(bytes).ok().and_then(|bytes| VerifyingKey::from_bytes(bytes).ok());
    key.is_some_and(|key| !key.is_weak())
}
