//! Signed notes against the vectors of golang.org/x/mod/sumdb/note, and what the parser refuses.

use countersign_audit::{KeyError, MAX_NOTE_BYTES, MAX_SIGNATURES, Note, NoteError, NoteSigner, NoteVerifier};

const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";

/// The seed in the Go test key `PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFAL…`.
const PETER_SEED: &str = "810a1402d5146c8d84f2443330f54080ebf98ee17d9c74f6252fc5d5c7283173";

const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n";
const PETER_LINE: &str =
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
const ENOCH_LINE: &str =
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";

fn key(text: &str) -> NoteVerifier {
    text.parse().unwrap()
}

fn peter() -> NoteSigner {
    let seed: [u8; 32] = hex::decode(PETER_SEED).unwrap().try_into().unwrap();
    NoteSigner::from_seed("PeterNeumann", &seed).unwrap()
}

fn parse(note: &str) -> Result<Note, NoteError> {
    Note::parse(note.as_bytes())
}

#[test]
fn the_known_key_gives_the_known_signature() {
    let note = Note::sign(TEXT, &[&peter()]).unwrap();
    assert_eq!(note.to_string(), format!("{TEXT}\n{PETER_LINE}"));
    assert_eq!(peter().verifier().to_string(), PETER);
    assert_eq!(peter().id().to_string(), "c74f20a3");
}

#[test]
fn the_secret_of_a_key_is_text_that_go_reads_too() {
    const SECRET: &str = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    assert_eq!(*peter().private_text(), SECRET);
    let read: NoteSigner = SECRET.parse().unwrap();
    assert_eq!(Note::sign(TEXT, &[&read]).unwrap().to_string(), format!("{TEXT}\n{PETER_LINE}"));
    for (bad, error) in [
        ("", KeyError::PrivateForm),
        (PETER, KeyError::PrivateForm),
        ("PRIVATE+KEY+PeterNeumann+c74f20a3", KeyError::PrivateForm),
        ("PRIVATE+KEY+PeterNeumann+c74f20a3+AYEK", KeyError::PrivateForm),
        ("PRIVATE+KEY+PeterNeumann+c74f20a3+", KeyError::PrivateForm),
        (
            "PRIVATE+KEY+PeterNeumann+c74f20a3+AoEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz",
            KeyError::Algorithm { found: 2 },
        ),
    ] {
        assert_eq!(bad.parse::<NoteSigner>().unwrap_err(), error, "{bad}");
    }
    let renamed = SECRET.replace("PeterNeumann", "Peter");
    assert!(matches!(renamed.parse::<NoteSigner>().unwrap_err(), KeyError::Id { .. }));
}

#[test]
fn another_signature_joins_those_that_are_there() {
    let mallory = NoteSigner::from_seed("mallory", &[3; 32]).unwrap();
    let note = Note::sign(TEXT, &[&mallory]).unwrap().signed_also(&peter()).unwrap().signed_also(&mallory).unwrap();
    let names: Vec<&str> = note.signatures().iter().map(|made| made.name()).collect();
    assert_eq!(names, ["PeterNeumann", "mallory"]);
    assert_eq!(note.verify(&[mallory.verifier().clone(), key(PETER)]).unwrap().len(), 2);
    let mut full = note;
    for number in 0..MAX_SIGNATURES - 2 {
        full = full.signed_also(&NoteSigner::from_seed(&format!("n{number}"), &[9; 32]).unwrap()).unwrap();
    }
    let more = NoteSigner::from_seed("more", &[9; 32]).unwrap();
    assert_eq!(full.signed_also(&more).unwrap_err(), NoteError::TooManySignatures);
}

#[test]
fn a_signer_never_shows_its_secret() {
    let shown = format!("{:?}", peter());
    assert_eq!(shown, r#"NoteSigner { name: "PeterNeumann", id: c74f20a3, .. }"#);
}

#[test]
fn known_signatures_hold_and_unknown_ones_are_ignored() {
    let note = parse(&format!("{TEXT}\n{PETER_LINE}{ENOCH_LINE}")).unwrap();
    assert_eq!(note.text(), TEXT);
    let names = |keys: &[NoteVerifier]| {
        let held = note.verify(keys).unwrap();
        held.iter().map(|signature| signature.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[key(PETER)]), ["PeterNeumann"]);
    assert_eq!(names(&[key(ENOCH), key(PETER)]), ["PeterNeumann", "EnochRoot"]);
    let none = note.verify(&[]).unwrap_err();
    let found = "`PeterNeumann`, `EnochRoot`".to_owned();
    assert_eq!(none, NoteError::NoKnownKey { found });
}

#[test]
fn a_signature_said_twice_counts_once() {
    let note = parse(&format!("{TEXT}\n{PETER_LINE}{PETER_LINE}")).unwrap();
    assert_eq!(note.verify(&[key(PETER), key(PETER)]).unwrap().len(), 1);
}

#[test]
fn a_bad_signature_of_a_known_key_condemns_the_note_even_beside_a_good_one() {
    let other_text = parse(&format!("another text\n\n{ENOCH_LINE}{PETER_LINE}")).unwrap();
    let error = other_text.verify(&[key(PETER)]).unwrap_err();
    assert!(matches!(error, NoteError::BadSignature { name, .. } if name == "PeterNeumann"));

    let enoch_bad = ENOCH_LINE.replace("BzmZa0S", "BzmZa0T");
    let note = parse(&format!("{TEXT}\n{PETER_LINE}{enoch_bad}")).unwrap();
    assert!(note.verify(&[key(PETER)]).is_ok());
    let error = note.verify(&[key(PETER), key(ENOCH)]).unwrap_err();
    assert!(matches!(error, NoteError::BadSignature { name, .. } if name == "EnochRoot"));

    // The right key id, and more bytes than an Ed25519 signature has.
    let long = format!("{}ABCD{}", &PETER_LINE[..60], &PETER_LINE[60..]);
    let note = parse(&format!("{TEXT}\n{long}")).unwrap();
    assert!(matches!(note.verify(&[key(PETER)]), Err(NoteError::BadSignature { .. })));
}

#[test]
fn the_name_and_the_id_must_both_be_those_of_the_key() {
    let renamed = PETER_LINE.replace("PeterNeumann", "CarmenSandiego");
    let other_id = PETER_LINE.replace("x08g", "xxxx");
    for line in [renamed, other_id] {
        let note = parse(&format!("{TEXT}\n{line}")).unwrap();
        assert!(matches!(note.verify(&[key(PETER)]), Err(NoteError::NoKnownKey { .. })));
    }
}

#[test]
fn two_different_keys_of_one_name_and_id_are_refused_as_ambiguous() {
    // Found by search: the ids of these two keys are equal.
    let [one, other] = [26_843u32, 36_557].map(|number| {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        NoteSigner::from_seed("example.com/log42", &seed).unwrap()
    });
    let keys = [one.verifier().clone(), other.verifier().clone()];
    assert_ne!(keys[0], keys[1]);
    let note = Note::sign(TEXT, &[&one]).unwrap();
    let (name, id) = ("example.com/log42".to_owned(), one.id());
    assert_eq!(note.verify(&keys), Err(NoteError::AmbiguousKey { name, id }));
    assert!(note.verify(&keys[..1]).is_ok());
    assert!(matches!(note.verify(&keys[1..]), Err(NoteError::BadSignature { .. })));
}

#[test]
fn the_text_may_hold_empty_lines_and_ends_at_the_last_one() {
    let text = "\nfirst\n\n\nlast\n\n";
    let note = Note::sign(text, &[&peter()]).unwrap();
    let read = parse(&note.to_string()).unwrap();
    assert_eq!(read, note);
    assert_eq!(read.text(), text);
    assert!(read.verify(&[key(PETER)]).is_ok());
}

#[test]
fn malformed_notes_are_refused() {
    let good = format!("{TEXT}\n{PETER_LINE}");
    assert!(parse(&good).is_ok());
    assert_eq!(parse("").unwrap_err(), NoteError::Unterminated);
    assert_eq!(parse(TEXT).unwrap_err(), NoteError::Unsigned);
    assert_eq!(parse(good.trim_end()).unwrap_err(), NoteError::Unterminated);
    assert_eq!(parse(&good.replace('\n', "\r\n")).unwrap_err(), NoteError::ControlCharacter { line: 1, code: 0x0d });
    for code in (0..0x20u8).filter(|code| *code != b'\n').chain([0x7f]) {
        let found = parse(&format!("{TEXT}{}\n\n{PETER_LINE}", char::from(code))).unwrap_err();
        assert_eq!(found, NoteError::ControlCharacter { line: 3, code: code.into() });
    }
    let not_utf8 = [b"\xff".as_slice(), good.as_bytes()].concat();
    assert_eq!(Note::parse(&not_utf8).unwrap_err(), NoteError::Utf8 { offset: 0 });
    for note in [format!("{TEXT}\n"), format!("{TEXT}\n\n")] {
        assert_eq!(parse(&note).unwrap_err(), NoteError::Unsigned, "{note:?}");
    }
    let more = format!("{good}\nmore text\n");
    assert_eq!(parse(&more).unwrap_err(), NoteError::SignatureLine { line: 1 });
}

#[test]
fn malformed_signature_lines_are_refused_by_their_number() {
    let bad = [
        "Unexpected line.\n",
        "- PeterNeumann AAAAAAA=\n",
        "— PeterNeumann\n",
        "— PeterNeumann  AAAAAAA=\n",
        "— Peter Neumann AAAAAAA=\n",
        "— Peter+Neumann AAAAAAA=\n",
        "— Peter\u{a0}Neumann AAAAAAA=\n",
        "—  AAAAAAA=\n",
        "— PeterNeumann \n",
        // No padding, bits beyond the end, the other alphabet, an id without a signature.
        "— PeterNeumann AAAAAAA\n",
        "— PeterNeumann AAAAAAB=\n",
        "— PeterNeumann AAAAA_A=\n",
        "— PeterNeumann AAAAAA==\n",
        "— PeterNeumann AAAAAAA= \n",
    ];
    for line in bad {
        let found = parse(&format!("{TEXT}\n{PETER_LINE}{line}")).unwrap_err();
        assert_eq!(found, NoteError::SignatureLine { line: 2 }, "{line:?}");
    }
}

#[test]
fn a_note_has_a_bounded_size_and_number_of_signatures() {
    let most = format!("{TEXT}\n{}", PETER_LINE.repeat(MAX_SIGNATURES));
    assert!(parse(&most).is_ok());
    assert_eq!(parse(&format!("{most}{PETER_LINE}")), Err(NoteError::TooManySignatures));
    let long = vec![b'a'; MAX_NOTE_BYTES + 1];
    assert_eq!(Note::parse(&long), Err(NoteError::TooLong { len: MAX_NOTE_BYTES + 1 }));
    let text = format!("{}\n", "a".repeat(MAX_NOTE_BYTES - 20));
    assert!(matches!(Note::sign(&text, &[&peter()]), Err(NoteError::TooLong { .. })));
    // C2SP signed-note: at least 16 signatures of nearly 5 kB are accepted.
    let large = format!("— example.com/witness {}\n", "AAAA".repeat(5000 / 3));
    assert!(parse(&format!("{TEXT}\n{}", large.repeat(16))).is_ok());
}

#[test]
fn a_text_that_no_note_can_hold_is_not_signed() {
    let peter = peter();
    assert_eq!(Note::sign(TEXT, &[]), Err(NoteError::Unsigned));
    assert_eq!(Note::sign("no line feed", &[&peter]), Err(NoteError::Unterminated));
    assert_eq!(Note::sign("", &[&peter]), Err(NoteError::Unterminated));
    assert_eq!(Note::sign("one\ntwo\tthree\n", &[&peter]), Err(NoteError::ControlCharacter { line: 2, code: 9 }));
}

#[test]
fn a_verifier_key_reads_as_it_is_written() {
    // The key of the Go checksum database beside those of the Go tests.
    let sumdb = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
    for text in [PETER, ENOCH, sumdb] {
        assert_eq!(key(text).to_string(), text);
        let copy = NoteVerifier::from_public_key(key(text).name(), &key(text).public_key());
        assert_eq!(copy.unwrap(), key(text));
    }
}

#[test]
fn every_mangled_verifier_key_is_refused() {
    for start in 0..PETER.len() {
        for end in start..=PETER.len() {
            let part = &PETER[start..end];
            assert_eq!(part.parse::<NoteVerifier>().is_ok(), part == PETER, "{part}");
        }
    }
    for at in 0..PETER.len() {
        let mut bytes = PETER.as_bytes().to_vec();
        bytes[at] += 1;
        let mangled = String::from_utf8(bytes).unwrap();
        assert!(mangled.parse::<NoteVerifier>().is_err(), "{mangled}");
    }
    let refused = |text: &str| text.parse::<NoteVerifier>().unwrap_err();
    // Both with the id that belongs to the mangled key.
    let long = "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==";
    assert!(matches!(refused(long), KeyError::PublicKey | KeyError::Form));
    let algorithm = "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    assert_eq!(refused(algorithm), KeyError::Algorithm { found: 0x65 });
}

#[test]
fn unusable_names_and_keys_are_refused() {
    for name in ["", "a b", "a+b", "a\nb", "a\u{2003}b", "a\u{7f}b", "a\u{85}b"] {
        assert!(matches!(NoteSigner::from_seed(name, &[7; 32]), Err(KeyError::Name { .. })));
    }
    assert!(NoteSigner::from_seed("example.com/log42", &[7; 32]).is_ok());
    // The neutral element: under it, one signature holds for every text.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let found = NoteVerifier::from_public_key("example.com/log42", &neutral);
    assert_eq!(found, Err(KeyError::PublicKey));
}

#[test]
fn words_of_the_user_cannot_flood_or_steer_the_terminal() {
    let error = NoteSigner::from_seed(&"a\u{1b}[2J ".repeat(500), &[7; 32]).unwrap_err();
    let shown = error.to_string();
    assert!(shown.len() < 400, "{shown}");
    assert!(!shown.contains('\u{1b}'));
}
