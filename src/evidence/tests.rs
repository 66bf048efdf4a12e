use super::*;

fn evidence() -> Evidence {
    let record = Proved { index: 0, proof: Vec::new(), content: "{}".to_owned() };
    Evidence {
        format: FORMAT.to_owned(),
        subject: "cap_1".to_owned(),
        checkpoint: String::new(),
        records: vec![record],
        bundles: BTreeMap::new(),
        views: BTreeMap::new(),
        tokens: Vec::new(),
    }
}

#[test]
fn evidence_has_one_spelling() {
    let bytes = evidence().to_bytes().unwrap();
    assert_eq!(Evidence::from_bytes(&bytes).unwrap(), evidence());
    let text = String::from_utf8(bytes).unwrap();
    for (from, to) in
        [("\n", ""), (":0", ": 0"), ("cap", "\\u0063ap"), ("{\"format\"", "{\"more\":1,\"format\""), ("/v1", "/v2")]
    {
        let other = text.replacen(from, to, 1);
        assert!(other != text && Evidence::from_bytes(other.as_bytes()).is_err(), "{other}");
    }
}

#[test]
fn hostile_files_are_refused_and_nothing_worse() {
    let trust = Trust::default();
    for hostile in ["", "null", "[", &"[".repeat(100_000), "{\"format\":\"countersign-evidence/v1\"}", "\u{0}"] {
        assert!(verify(hostile.as_bytes(), &trust).is_err());
    }
    let outcome = verify(&evidence().to_bytes().unwrap(), &trust).unwrap();
    assert!(!outcome.holds());
}

#[test]
fn a_page_escapes_what_strangers_wrote() {
    let told = Finding { what: "<b>".to_owned(), verdict: Verdict::Holds, detail: "\"'&\u{202e}".to_owned() };
    let outcome = Outcome {
        subject: "<script>".to_owned(),
        findings: vec![told],
        story: vec!["</ol><img>".to_owned()],
        votes: Ballots::default(),
    };
    let page = html(&outcome);
    for bad in ["<script>", "<b>", "<img>", "\u{202e}"] {
        assert!(!page.contains(bad), "{page}");
    }
}

#[test]
fn trusted_keys_are_read_strictly() {
    assert!(Trust::read("# nobody\n\n").unwrap().logs.is_empty());
    for wrong in ["log", "log nonsense", "friend a+00000000+AAAA", "token 1", "token x 00", "token 1 00"] {
        assert!(Trust::read(wrong).is_err(), "{wrong}");
    }
}
