//! Checkpoints: the published form, and what is refused.

use countersign_audit::{
    Checkpoint, CheckpointError, EMPTY_ROOT, Hash, NoteError, NoteSigner, NoteVerifier, SignedCheckpoint, leaf_hash,
};

const ORIGIN: &str = "example.com/log42";

/// A checkpoint of the Go checksum database, as it was published.
const SUMDB_KEY: &str = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
const SUMDB: &str = "go.sum database tree\n6476701\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n\n\
    — sum.golang.org Az3grsLX85Gz+s1SiTbgkuqxgItqFq7gsMUEyVnrsa9LM7Us9S+1xbFIGu95949rj4nPRYfvimWEPWL+o3GeoWwOoAw=\n";

fn signer() -> NoteSigner {
    NoteSigner::from_seed(ORIGIN, &[7; 32]).unwrap()
}

fn keys() -> [NoteVerifier; 1] {
    [signer().verifier().clone()]
}

fn root() -> Hash {
    leaf_hash(b"the only record")
}

fn parse(text: &str) -> Result<Checkpoint, CheckpointError> {
    text.parse()
}

#[test]
fn a_published_checkpoint_of_another_log_is_read_and_holds() {
    let signed = SignedCheckpoint::parse(SUMDB.as_bytes()).unwrap();
    let keys: [NoteVerifier; 1] = [SUMDB_KEY.parse().unwrap()];
    let checkpoint = signed.verify("go.sum database tree", &keys).unwrap();
    assert_eq!(checkpoint.size(), 6_476_701);
    assert_eq!(checkpoint.root().to_string(), "99bf102d022cd19d323f90acb6aea0ba3f3ba1759e0bd80433ca158a49a6f569");
    assert_eq!(signed.to_string(), SUMDB);
    let changed = SUMDB.replace("6476701", "6476702");
    let signed = SignedCheckpoint::parse(changed.as_bytes()).unwrap();
    assert!(matches!(
        signed.verify("go.sum database tree", &keys),
        Err(CheckpointError::Note(NoteError::BadSignature { .. }))
    ));
}

#[test]
fn what_is_signed_is_read_and_verified_as_it_was() {
    let checkpoint = Checkpoint::new(ORIGIN, 1, root()).unwrap();
    let signed = SignedCheckpoint::sign(checkpoint.clone(), &[&signer()]).unwrap();
    let read = SignedCheckpoint::parse(signed.to_string().as_bytes()).unwrap();
    assert_eq!(read, signed);
    assert_eq!(read.verify(ORIGIN, &keys()).unwrap(), &checkpoint);
    assert_eq!(read.unverified(), &checkpoint);
}

#[test]
fn a_checkpoint_of_another_log_or_key_is_refused() {
    let checkpoint = Checkpoint::new(ORIGIN, 1, root()).unwrap();
    let signed = SignedCheckpoint::sign(checkpoint, &[&signer()]).unwrap();
    let (expected, found) = ("example.com/log43".to_owned(), ORIGIN.to_owned());
    assert_eq!(signed.verify("example.com/log43", &keys()), Err(CheckpointError::OtherLog { expected, found }));
    let other = NoteSigner::from_seed(ORIGIN, &[8; 32]).unwrap();
    assert!(matches!(
        signed.verify(ORIGIN, &[other.verifier().clone()]),
        Err(CheckpointError::Note(NoteError::NoKnownKey { .. }))
    ));
}

#[test]
fn a_key_can_be_rotated_by_signing_with_both() {
    let next = NoteSigner::from_seed(ORIGIN, &[8; 32]).unwrap();
    let checkpoint = Checkpoint::new(ORIGIN, 1, root()).unwrap();
    let signed = SignedCheckpoint::sign(checkpoint, &[&signer(), &next]).unwrap();
    assert!(signed.verify(ORIGIN, &keys()).is_ok());
    assert!(signed.verify(ORIGIN, &[next.verifier().clone()]).is_ok());
    let both = [signer().verifier().clone(), next.verifier().clone()];
    assert!(signed.verify(ORIGIN, &both).is_ok());
}

#[test]
fn no_changed_bit_of_a_signed_checkpoint_is_accepted() {
    let checkpoint = Checkpoint::new(ORIGIN, 1, root()).unwrap();
    let note = SignedCheckpoint::sign(checkpoint, &[&signer()]).unwrap().to_string();
    for at in 0..note.len() * 8 {
        let mut bytes = note.clone().into_bytes();
        bytes[at / 8] ^= 1 << (at % 8);
        let signed = SignedCheckpoint::parse(&bytes);
        let accepted = signed.is_ok_and(|signed| signed.verify(ORIGIN, &keys()).is_ok());
        assert!(!accepted, "bit {at} of {note}");
    }
}

#[test]
fn sizes_have_one_spelling() {
    let with = |size: &str| {
        let empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        parse(&format!("{ORIGIN}\n{size}\n{empty}\n"))
    };
    assert_eq!(with("0").unwrap().size(), 0);
    assert_eq!(with("18446744073709551615").unwrap().size(), u64::MAX);
    for size in ["00", "01", "+1", "-1", " 1", "1 ", "0x1", "1e3", "18446744073709551616", "١"] {
        let text = size.to_owned();
        assert_eq!(with(size), Err(CheckpointError::Size { text }), "{size}");
    }
}

#[test]
fn roots_have_one_spelling() {
    let with = |root: &str| parse(&format!("{ORIGIN}\n1\n{root}\n"));
    let good = "/g9am3I6YWNKaZX/jkne1fqd9zEyjss+JXyPXG0WfkY=";
    assert!(with(good).is_ok());
    let bad = [
        good.trim_end_matches('=').to_owned(),
        format!(" {good}"),
        format!("{good}="),
        good.replace("kY=", "kZ="),
        good.replace('/', "_").replace('+', "-"),
        good.replace("/g9a", ""),
        format!("/g9a{good}"),
    ];
    for text in bad {
        assert_eq!(with(&text), Err(CheckpointError::Root { text: text.clone() }), "{text}");
    }
}

#[test]
fn malformed_checkpoints_are_refused() {
    let good = "example.com/log42\n1\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n";
    assert!(parse(good).is_ok());
    let cut = |missing| CheckpointError::Truncated { missing };
    assert_eq!(parse(""), Err(NoteError::Unterminated.into()));
    assert_eq!(parse(good.trim_end()), Err(NoteError::Unterminated.into()));
    assert_eq!(parse("example.com/log42\n"), Err(cut("tree size")));
    assert_eq!(parse("example.com/log42\n1\n"), Err(cut("root hash")));
    assert_eq!(parse(&format!("\n{good}")), Err(CheckpointError::EmptyLine { line: 1 }));
    assert_eq!(parse(&format!("{good}\n")), Err(CheckpointError::EmptyLine { line: 4 }));
    assert_eq!(parse(&format!("{good}\nx\n")), Err(CheckpointError::EmptyLine { line: 4 }));
    let carriage_return = NoteError::ControlCharacter { line: 1, code: 0x0d };
    assert_eq!(parse(&good.replace('\n', "\r\n")), Err(carriage_return.into()));
    let root = "mb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=";
    assert!(matches!(parse(&format!("{ORIGIN}\n0\n{root}\n")), Err(CheckpointError::EmptyTreeRoot { .. })));
}

#[test]
fn extension_lines_are_kept_and_signed() {
    let lines = vec!["first line".to_owned(), "— second".to_owned()];
    let checkpoint = Checkpoint::new(ORIGIN, 1, root()).unwrap();
    let extended = checkpoint.clone().with_extensions(lines.clone()).unwrap();
    assert_eq!(parse(&extended.to_string()).unwrap().extensions(), lines);
    let signed = SignedCheckpoint::sign(extended, &[&signer()]).unwrap().to_string();
    let changed = signed.replace("first", "fIrst");
    assert!(SignedCheckpoint::parse(signed.as_bytes()).unwrap().verify(ORIGIN, &keys()).is_ok());
    assert!(SignedCheckpoint::parse(changed.as_bytes()).unwrap().verify(ORIGIN, &keys()).is_err());
    for line in ["", "two\nlines", "\n", "tab\tbed", "end\n"] {
        assert!(checkpoint.clone().with_extensions(vec![line.to_owned()]).is_err(), "{line:?}");
    }
}

#[test]
fn a_new_log_takes_an_origin_that_its_key_can_bear() {
    for origin in ["", "two words", "a+b", "line\nfeed", "tab\tbed"] {
        let refused = Checkpoint::new(origin, 0, EMPTY_ROOT);
        assert!(matches!(refused, Err(CheckpointError::Origin { .. })), "{origin:?}");
    }
    let refused = Checkpoint::new(ORIGIN, 0, root());
    assert_eq!(refused, Err(CheckpointError::EmptyTreeRoot { root: root() }));
}
