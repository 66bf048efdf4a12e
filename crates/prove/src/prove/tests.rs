use std::path::Path;

use countersign_policy::Source;

use super::*;
use crate::{Places, find_solver, properties};

fn bundle() -> Bundle {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/minimal");
    Bundle::load(Source::read_dir(&path).unwrap()).unwrap()
}

fn verdicts(proofs: &[Proof]) -> Vec<(&str, Verdict)> {
    proofs.iter().map(|proof| (proof.property.as_str(), proof.verdict())).collect()
}

/// The solver of `make setup-prove`. Without it these tests fail, and say so.
fn real() -> Solver {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    find_solver(&Places { named: Some(python), ..Places::default() })
        .unwrap_or_else(|missing| panic!("run `make setup-prove`, which installs the solver\n{missing}"))
}

/// The package and the executable do not say it alike, and the symbolic compiler knows the executable's word only.
#[test]
fn a_question_that_takes_too_long_is_answered_as_the_executable_answers_it() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let solver = real();
    let mut child = Command::new(&solver.program)
        .args(&solver.arguments)
        .args(["--lang", "smt", "--tlimit-per=200"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The factors of a large number.
    let question = "(set-logic ALL)(declare-const a (_ BitVec 64))(declare-const b (_ BitVec 64))
        (assert (= (bvmul a b) #x7fffffffffffffe7))(assert (bvugt a #x0000000000000001))
        (assert (bvugt b #x0000000000000001))(assert (bvult a #x00000000ffffffff))(assert (bvult b #x00000000ffffffff))
        (check-sat)\n";
    child.stdin.take().unwrap().write_all(question.as_bytes()).unwrap();
    let answer = child.wait_with_output().unwrap();
    assert_eq!((String::from_utf8_lossy(&answer.stdout).trim(), answer.status.success()), ("unknown", true));
}

/// Every bundle has the kernel, so what it holds up is seen without it only.
#[tokio::test]
async fn without_the_kernel_the_excluded_answer_and_approve() {
    let solver = real();
    let bundle = bundle();
    let mut wanted = properties(&bundle).unwrap();
    wanted.retain(|property| property.id.starts_with("approval:") || property.id.starts_with("answer:"));
    let (bound, answered, approved) =
        ("approval:bound-and-fresh", "answer:not-by-excluded", "approval:not-by-excluded");

    let proofs = prove(&bundle, &wanted, &solver, |_| {}).await;
    let all = |verdict| vec![(bound, verdict), (approved, verdict), (answered, verdict)];
    assert_eq!(verdicts(&proofs), all(Verdict::Proved));

    let mut ground = Ground::of(&bundle);
    for kind in &mut ground.kinds {
        let kept = kind.policies.policies().filter(|policy| !policy.id().to_string().starts_with("kernel-")).cloned();
        kind.policies = PolicySet::from_policies(kept).unwrap();
    }
    let proofs = ground.prove(&wanted, &solver, |_| {}).await;
    assert_eq!(verdicts(&proofs), all(Verdict::Refuted));
    let answer = &proofs.last().unwrap().cases[0].finding;
    let Finding::Refuted(found) = answer else { panic!("{answer:#?}") };
    assert_eq!((found.replay.allowed, found.replay.policies.as_slice()), (true, &["editors-answer".to_owned()][..]));
    let excluded = found.context.iter().find(|(field, _)| field == "excluded").unwrap();
    assert!(excluded.1.contains(&found.principal.name), "{found:#?}");
    assert!(found.principal.parents.contains(&"Group::\"editors\"".to_owned()), "{found:#?}");
}

/// A solver of a few lines, which says what it is told to say.
#[cfg(unix)]
fn fake(dir: &Path, answers: &str) -> Solver {
    use std::os::unix::fs::PermissionsExt as _;
    let program = dir.join("cvc5");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo a fake cvc5 && exit\n\
         while read -r line; do case \"$line\" in {answers} esac; done\n"
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    find_solver(&Places { named: Some(program), ..Places::default() }).unwrap()
}

#[cfg(unix)]
#[tokio::test]
async fn no_answer_is_no_proof() {
    let bundle = bundle();
    let mut wanted = properties(&bundle).unwrap();
    wanted.retain(|property| property.id == "publishing-waits-for-an-editor");
    for (answers, verdict) in [
        ("'(check-sat)') echo unknown;;", Verdict::Undecided),
        ("'(check-sat)') echo '(error \"out of memory\")';;", Verdict::Undecided),
        ("'(check-sat)') exit 1;;", Verdict::Undecided),
        ("'(check-sat)') echo perhaps;;", Verdict::Undecided),
        // A model that is none: the authorizer refutes the refutation.
        ("'(check-sat)') echo sat;; '(get-model)') echo '('; echo ')';;", Verdict::Unconfirmed),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let proofs = prove(&bundle, &wanted, &fake(dir.path(), answers), |_| {}).await;
        assert_eq!(proofs[0].verdict(), verdict, "{answers}: {proofs:#?}");
        assert_eq!(proofs[0].warning, None);
    }
}
