//! One token, one spelling.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE};
use biscuit_auth::Biscuit;
use countersign_token::{Limits, PREFIX, TokenError, verify};
use proptest::prelude::*;

use crate::fixture::{ISSUED, at, biscuit, decode, encode, minted, pair, read, ring};

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = decode(minted().expose());
    for (place, bit) in (0..bytes.len()).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
        let mut changed = bytes.clone();
        changed[place] ^= 1 << bit;
        assert!(read(&encode(&changed)).is_err(), "bit {bit} of byte {place}");
    }
}

#[test]
fn every_byte_left_out_or_doubled_is_refused() {
    let bytes = decode(minted().expose());
    for place in 0..bytes.len() {
        assert!(read(&encode(&bytes[..place])).is_err(), "cut at {place}");
        let mut changed = bytes.clone();
        changed.insert(place, bytes[place]);
        assert!(read(&encode(&changed)).is_err(), "{place} doubled");
        changed = bytes.clone();
        changed.remove(place);
        assert!(read(&encode(&changed)).is_err(), "{place} left out");
    }
}

#[test]
fn every_changed_character_is_refused() {
    let text = minted().expose().to_owned();
    for place in 0..text.len() {
        for other in ["A", "B", "_", "-", "/", "+", "=", " ", "\n", "\0", "é", ""] {
            if &text[place..=place] != other {
                let changed = format!("{}{other}{}", &text[..place], &text[place + 1..]);
                assert!(read(&changed).is_err(), "{place} {other:?}");
            }
        }
    }
}

#[test]
fn base64_has_one_spelling() {
    // The claims of the fixture may end on a whole group of bytes; a longer name makes each remainder.
    for extra in 0..3 {
        let mut claims = crate::fixture::claims();
        claims.audience.push_str(&"x".repeat(extra));
        let token = countersign_token::mint(&crate::fixture::key(), &claims).unwrap();
        let text = token.expose();
        let bytes = decode(text);
        assert!(read(text).is_ok());

        let padded = format!("{PREFIX}{}", URL_SAFE.encode(&bytes));
        let standard = format!("{PREFIX}{}", STANDARD_NO_PAD.encode(&bytes));
        let mut others = vec![
            format!("{text}="),
            format!("{text}=="),
            format!("{text}\n"),
            format!(" {text}"),
            format!("{text}A"),
            text.replacen(PREFIX, "csn_ ", 1),
            text.replacen(PREFIX, "CSN_", 1),
            text.replacen(PREFIX, "csn_csn_", 1),
            text.replacen(PREFIX, "", 1),
            text.replacen(PREFIX, "biscuit:", 1),
            text[..200].to_owned() + "\n" + &text[200..],
        ];
        others.extend([padded, standard].into_iter().filter(|other| other != text));
        for other in others {
            assert!(matches!(read(&other), Err(TokenError::Malformed(_))), "{other:?}");
        }

        // The bits beyond the last byte.
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let last = text.as_bytes()[text.len() - 1];
        for other in ALPHABET.iter().filter(|other| **other != last) {
            let changed = format!("{}{}", &text[..text.len() - 1], char::from(*other));
            assert!(read(&changed).is_err(), "{}", char::from(*other));
        }
    }
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = vec![];
    while value >= 0x80 {
        bytes.push(u8::try_from(value % 0x80).unwrap() | 0x80);
        value /= 0x80;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

fn field(number: u8, contents: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2], varint(contents.len()).as_slice(), contents].concat()
}

#[test]
fn protobuf_has_one_spelling() {
    let text = minted().expose().to_owned();
    let token = biscuit(&text).container().to_proto();
    let bytes = decode(&text);
    let block = field(1, &token.authority.block);
    let key = field(2, &[vec![0x08, 0], field(2, &token.authority.next_key.key)].concat());
    let signature = field(3, &token.authority.signature);
    let authority = field(2, &[block.clone(), key.clone(), signature.clone()].concat());
    // A proof's fields are told apart by number only, so the last 64 bytes are the signature that seals.
    let sealed = field(2, &bytes[bytes.len() - 64..]);
    let proof = field(4, &sealed);
    let id = vec![0x08, 1];
    assert_eq!([id.clone(), authority.clone(), proof.clone()].concat(), bytes);

    let with_authority = |parts: &[&[u8]]| [id.clone(), field(2, &parts.concat()), proof.clone()].concat();
    let long_length = [&[0x22], &[0x80 | u8::try_from(sealed.len()).unwrap(), 0][..], &sealed].concat();
    let variants = [
        ("unknown field at the end", [&bytes[..], &field(15, b"x")].concat()),
        ("unknown field at the beginning", [&field(15, b"")[..], &bytes].concat()),
        ("unknown number at the end", [&bytes[..], &[15 << 3, 1]].concat()),
        ("reordered", [authority.clone(), proof.clone(), id.clone()].concat()),
        ("id last", [&authority[..], &id, &proof].concat()),
        ("id twice", [&id[..], &bytes].concat()),
        ("another id first", [&[0x08, 9][..], &bytes].concat()),
        ("id as a long varint", [&[0x08, 0x81, 0][..], &authority, &proof].concat()),
        ("id beyond 32 bits", [&[0x08, 0x81, 0x80, 0x80, 0x80, 0x10][..], &authority, &proof].concat()),
        ("length as a long varint", [&id[..], &authority, &long_length].concat()),
        ("proof twice", [&bytes[..], &proof].concat()),
        ("empty proof after it", [&bytes[..], &field(4, b"")].concat()),
        ("empty authority after it", [&bytes[..], &field(2, b"")].concat()),
        (
            "unknown field in the proof",
            [&id[..], &authority, &field(4, &[&sealed[..], &field(15, b"")].concat())].concat(),
        ),
        ("unknown field in the authority", with_authority(&[&block, &key, &signature, &field(15, b"")])),
        ("reordered authority", with_authority(&[&signature, &block, &key])),
        ("version that is the default", with_authority(&[&block, &key, &signature, &[0x28, 0]])),
        (
            "algorithm that is the default",
            with_authority(&[&block, &field(2, &field(2, &token.authority.next_key.key)), &signature]),
        ),
        ("block twice", with_authority(&[&block, &block, &key, &signature])),
    ];
    let mut accepted_by_the_library = 0;
    for (what, variant) in variants {
        assert!(read(&encode(&variant)).is_err(), "{what}");
        accepted_by_the_library += usize::from(Biscuit::from(&variant, pair().public()).is_ok());
    }
    assert!(accepted_by_the_library >= 12, "{accepted_by_the_library}: the variants should test us, not the library");
}

#[test]
fn an_id_that_is_left_out_is_not_guessed() {
    let bytes = decode(minted().expose());
    assert!(Biscuit::from(&bytes[2..], pair().public()).is_ok());
    assert_eq!(read(&encode(&bytes[2..])).map(drop), Err(TokenError::NotOurs("it names no root key")));
}

#[test]
fn length_is_looked_at_first() {
    let text = minted().expose().to_owned();
    let limits = Limits { text_bytes: text.len() - 1, ..Limits::default() };
    let refused = verify(&text, &ring(), at(ISSUED), &limits).map(drop);
    assert_eq!(refused, Err(TokenError::TooLarge { bytes: text.len(), limit: text.len() - 1 }));
    let limits = Limits { text_bytes: text.len(), ..Limits::default() };
    assert!(verify(&text, &ring(), at(ISSUED), &limits).is_ok());
}

proptest! {
    #[test]
    fn no_text_is_read_but_the_minted_one(place in any::<prop::sample::Index>(), other in any::<char>(), remove in 0usize..3) {
        let text = minted().expose().to_owned();
        let place = place.index(text.len());
        let end = (place + remove).min(text.len());
        let changed = format!("{}{other}{}", &text[..place], &text[end..]);
        prop_assume!(changed != text);
        let error = read(&changed).unwrap_err();
        prop_assert!(!error.to_string().contains(&text[10..30]));
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..600), text in ".{0,200}") {
        prop_assert!(read(&encode(&bytes)).is_err());
        prop_assert!(read(&text).is_err());
    }

    #[test]
    fn garbage_in_the_middle_is_refused(bytes in prop::collection::vec(any::<u8>(), 1..40), at in any::<prop::sample::Index>()) {
        let mut token = decode(minted().expose());
        let place = at.index(token.len());
        let end = (place + bytes.len()).min(token.len());
        prop_assume!(token[place..end] != bytes[..end - place]);
        token.splice(place..end, bytes);
        prop_assert!(read(&encode(&token)).is_err());
    }
}
