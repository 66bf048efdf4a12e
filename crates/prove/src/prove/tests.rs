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

/// Every bundle has the kernel, so what it holds up is seen without it only.
#[tokio::test]
async fn without_the_kernel_the_excluded_answer_and_approve() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    let solver = find_solver(&Places { named: Some(python), ..Places::default() })
        .unwrap_or_else(|missing| panic!("run `make setup-prove`, which installs the solver\n{missing}"));
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
