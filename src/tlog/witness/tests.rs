use countersign_audit::{CosignatureVerifier, Frontier, Hash, NodeId, NoteSigner, consistency_proof, leaf_hash};

use super::*;

const ORIGIN: &str = "log.example/acme";

/// A log whose records differ from those of another `history`.
struct Log {
    signer: NoteSigner,
    nodes: BTreeMap<NodeId, Hash>,
    roots: Vec<Hash>,
}

impl Log {
    fn new(history: u8, size: u8) -> Self {
        let (mut frontier, mut nodes) = (Frontier::empty(), BTreeMap::new());
        let mut roots = vec![frontier.root()];
        for record in 0..size {
            nodes.extend(frontier.append(leaf_hash(&[history, record])).into_iter().map(|node| (node.id, node.hash)));
            roots.push(frontier.root());
        }
        Self { signer: NoteSigner::from_seed(ORIGIN, &[1; 32]).unwrap(), nodes, roots }
    }

    fn ask(&self, old: usize, new: usize) -> AddCheckpoint {
        let checkpoint = Checkpoint::new(ORIGIN, new as u64, self.roots[new]).unwrap();
        let look = |id| Ok::<_, ()>(self.nodes.get(&id).copied());
        let proof = if old == 0 { Vec::new() } else { consistency_proof(old as u64, new as u64, look).unwrap() };
        let checkpoint = SignedCheckpoint::sign(checkpoint, &[&self.signer]).unwrap();
        let question = AddCheckpoint { old_size: old as u64, proof, checkpoint };
        assert_eq!(AddCheckpoint::parse(question.to_string().as_bytes()).unwrap(), question);
        question
    }
}

fn open(dir: &Path) -> Result<Witness, WitnessError> {
    let key = NoteSigner::from_seed(ORIGIN, &[1; 32]).unwrap().verifier().clone();
    Witness::open(dir, Some("w.example"), vec![key])
}

fn cosigned(witness: &Witness, question: &AddCheckpoint) {
    match witness.answer(question, 7) {
        Answered::Cosigned(line) => {
            let key: CosignatureVerifier = witness.verifier().parse().unwrap();
            let line = countersign_audit::NoteSignature::parse(line.trim_end()).unwrap();
            assert_eq!(key.check(question.checkpoint.note().text(), &line), Ok(7));
        }
        other @ (Answered::Refused(_) | Answered::Failed(_)) => panic!("{other:?}"),
    }
}

fn refused(witness: &Witness, question: &AddCheckpoint) -> Refusal {
    match witness.answer(question, 7) {
        Answered::Refused(refusal) => refusal,
        other @ (Answered::Cosigned(_) | Answered::Failed(_)) => panic!("{other:?}"),
    }
}

#[test]
fn what_continues_is_cosigned_and_nothing_else_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (log, fork) = (Log::new(0, 9), Log::new(1, 9));
    let witness = open(dir.path()).unwrap();
    let vkey = witness.verifier();
    cosigned(&witness, &log.ask(0, 3));
    cosigned(&witness, &log.ask(3, 3));
    cosigned(&witness, &log.ask(3, 5));
    assert!(matches!(open(dir.path()), Err(WitnessError::InUse(_))), "one at a time");
    drop(witness);
    let witness = open(dir.path()).unwrap();
    assert_eq!(witness.verifier(), vkey);
    // Back, as if nothing had been, and along another history.
    assert_eq!(refused(&witness, &log.ask(0, 3)), Refusal::OtherSize { size: 5 });
    assert_eq!(refused(&witness, &log.ask(3, 7)), Refusal::OtherSize { size: 5 });
    assert_eq!(refused(&witness, &fork.ask(5, 5)), Refusal::OtherRoot { size: 5 });
    assert!(matches!(refused(&witness, &fork.ask(5, 9)), Refusal::NotContinued(_)));
    let short = AddCheckpoint { old_size: 5, proof: Vec::new(), checkpoint: log.ask(5, 4 + 5).checkpoint };
    assert!(matches!(refused(&witness, &short), Refusal::NotContinued(_)));
    let back = AddCheckpoint { old_size: 5, proof: Vec::new(), checkpoint: log.ask(0, 4).checkpoint };
    assert_eq!(refused(&witness, &back), Refusal::OldAbove { old: 5, new: 4 });
    cosigned(&witness, &log.ask(5, 9));
}

#[test]
fn only_the_logs_own_checkpoints_count() {
    let dir = tempfile::tempdir().unwrap();
    let witness = open(dir.path()).unwrap();
    let mut forged = Log::new(0, 3);
    forged.signer = NoteSigner::from_seed(ORIGIN, &[2; 32]).unwrap();
    assert!(matches!(refused(&witness, &forged.ask(0, 3)), Refusal::NotTheLogs(_)));
    let other = NoteSigner::from_seed("other.example", &[1; 32]).unwrap();
    let checkpoint = Checkpoint::new("other.example", 0, countersign_audit::EMPTY_ROOT).unwrap();
    let checkpoint = SignedCheckpoint::sign(checkpoint, &[&other]).unwrap();
    let question = AddCheckpoint { old_size: 0, proof: Vec::new(), checkpoint };
    assert!(matches!(refused(&witness, &question), Refusal::UnknownLog { .. }));
}

#[test]
fn of_two_histories_that_are_asked_for_at_once_one_is_cosigned() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let witness = open(dir.path()).unwrap();
        let (log, fork) = (Log::new(0, 50), Log::new(1, 50));
        let count = std::thread::scope(|scope| {
            let asking = [&log, &fork].map(|log| {
                let witness = &witness;
                scope.spawn(move || {
                    (1..=50)
                        .filter(|size| matches!(witness.answer(&log.ask(*size - 1, *size), 7), Answered::Cosigned(_)))
                        .count()
                })
            });
            asking.map(|thread| thread.join().unwrap())
        });
        // Whoever was first has the log for itself; the other is never cosigned.
        assert!(count.contains(&0) && count.contains(&50), "{count:?}");
    }
}

#[test]
fn a_key_without_its_memory_cosigns_nothing() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    fs::remove_file(dir.path().join("witnessed.json")).unwrap();
    assert!(matches!(open(dir.path()), Err(WitnessError::Forgotten(_))));
    fs::write(dir.path().join("witnessed.json"), "{\"version\":2,\"logs\":{}}").unwrap();
    assert!(matches!(open(dir.path()), Err(WitnessError::Damaged { .. })));
    assert!(matches!(Witness::open(dir.path(), Some("x"), vec![]), Err(WitnessError::OtherName { .. })));
}

#[test]
fn what_cannot_be_remembered_is_not_cosigned() {
    let dir = tempfile::tempdir().unwrap();
    let mut witness = open(dir.path()).unwrap();
    witness.path = dir.path().join("gone/witnessed.json");
    assert!(matches!(witness.answer(&Log::new(0, 3).ask(0, 3), 7), Answered::Failed(_)));
}
