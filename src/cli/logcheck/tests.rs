use countersign_audit::{Frontier, NoteSigner, leaf_hash};

use super::*;

fn log(records: &[&str]) -> Frontier {
    let mut frontier = Frontier::empty();
    records.iter().for_each(|record| drop(frontier.append(leaf_hash(record.as_bytes()))));
    frontier
}

fn head_of(records: &[&str]) -> Checkpoint {
    let frontier = log(records);
    Checkpoint::new("example/log", frontier.size(), frontier.root()).unwrap()
}

fn check(heads: Vec<Checkpoint>, records: &[&str], stored: &[&str]) -> Report {
    let mut check = LogCheck::new(heads);
    for ((index, record), stored) in (0..).zip(records).zip(stored) {
        check.record(index, record.as_bytes(), Stored::Leaf(Some(leaf_hash(stored.as_bytes())))).unwrap();
    }
    check.finish("example/log", false)
}

#[test]
fn a_log_that_is_whole_verifies_against_old_and_new_heads() {
    let records = ["a", "b", "c"];
    let report = check(vec![head_of(&records), head_of(&["a"])], &records, &records);
    assert!(report.ok(), "{report:?}");
    assert_eq!(
        report.to_json(),
        json!({
            "ok": true, "origin": "example/log", "records": 3, "root": log(&records).root(), "heads": [1, 3],
            "faults": [], "fault_count": 0, "minimum_index": 0, "dropped_by_record": null, "key_unproven": false,
        })
    );
    assert!(report.into_result().is_ok());
}

#[test]
fn a_changed_byte_is_found_and_placed() {
    let report = check(vec![head_of(&["a", "b", "c"])], &["a", "B", "c"], &["a", "b", "c"]);
    assert_eq!(report.count, 2);
    assert!(report.faults[0].contains("record 1"), "{report:?}");
    let failure = report.into_result().unwrap_err();
    assert!(failure.to_human().contains("record 1"));
}

#[test]
fn history_that_was_rewritten_with_its_hashes_shows_against_an_older_head() {
    let rewritten = ["x", "b", "c"];
    let report = check(vec![head_of(&rewritten), head_of(&["a", "b"])], &rewritten, &rewritten);
    assert_eq!(report.count, 1, "{report:?}");
    assert!(report.faults[0].contains("first 2 records"), "{report:?}");
}

#[test]
fn a_lost_end_is_found() {
    let report = check(vec![head_of(&["a", "b", "c"])], &["a", "b"], &["a", "b"]);
    assert!(report.faults[0].contains("record 2 is the first one missing"), "{report:?}");
}

#[test]
fn a_gap_ends_the_check() {
    let mut check = LogCheck::new(vec![]);
    let failure = check.record(1, b"b", Stored::Leaf(None)).unwrap_err();
    assert!(failure.to_human().contains("record 0 is missing"));
}

#[test]
fn damaged_nodes_of_a_directory_are_found() {
    let mut check = LogCheck::new(vec![]);
    let mut look = |id: NodeId| Ok(Some(if id.level == 0 { leaf_hash(b"a") } else { leaf_hash(b"damaged") }));
    check.record(0, b"a", Stored::Nodes(&mut look)).unwrap();
    check.record(1, b"a", Stored::Nodes(&mut look)).unwrap();
    assert_eq!(check.finish("x", false).count, 1);
}

#[test]
fn a_head_is_believed_only_under_the_right_key() {
    let signer = NoteSigner::from_seed("example/log", &[1; 32]).unwrap();
    let other = NoteSigner::from_seed("example/log", &[2; 32]).unwrap();
    let note = SignedCheckpoint::sign(head_of(&["a"]), &[&signer]).unwrap().to_string();
    assert_eq!(head(&note, signer.verifier()).unwrap().size(), 1);
    assert!(head(&note, other.verifier()).is_err());
}

#[test]
fn a_record_that_tells_of_less_than_is_missing_tells_of_nothing() {
    // Which bundles of entries are gone, of a log in which record 3,000 says that those before 1,024 are.
    for (missing, ok) in [(1_024_u64, true), (1_280, false), (2_048, false), (2_816, false)] {
        let mut tree = Frontier::empty();
        let mut nodes = BTreeMap::new();
        let mut check = LogCheck::new(vec![]);
        let mut root = tree.root();
        for index in 0..3_100_u64 {
            if index == 1_024 {
                root = tree.root();
            }
            let record = match index {
                3_000 => json!({ "kind": PRUNED, "minimum_index": 1_024, "root": root }).to_string(),
                _other => index.to_string(),
            };
            let leaf = leaf_hash(record.as_bytes());
            nodes.extend(tree.append(leaf).into_iter().map(|node| (node.id, node.hash)));
            let mut stored = |id: NodeId| Ok(nodes.get(&id).copied());
            if index < missing {
                check.dropped(leaf, &mut stored).unwrap();
            } else {
                check.record(index, record.as_bytes(), Stored::Tiles(&mut stored)).unwrap();
            }
        }
        let report = check.finish("example/log", false);
        assert_eq!(report.ok(), ok, "{missing}: {report:?}");
    }
}

#[test]
fn a_copy_of_what_was_dropped_does_not_make_up_for_the_record_that_tells_of_it() {
    for told in [true, false] {
        let mut tree = Frontier::empty();
        let mut check = LogCheck::new(vec![]);
        check.copied = 1_024;
        for index in 0..1_030_u64 {
            let record = match index {
                1_025 if told => {
                    json!({ "kind": PRUNED, "minimum_index": 1_024, "root": check.roots[&1_024] }).to_string()
                }
                _other => index.to_string(),
            };
            tree.append(leaf_hash(record.as_bytes()));
            check.record(index, record.as_bytes(), Stored::Nothing).unwrap();
        }
        let report = check.finish("example/log", false);
        assert_eq!((report.ok(), report.minimum_index), (told, 0), "{report:?}");
    }
}
