//! Questions to the solver.

use std::time::Duration;

use cedar_policy_symcc::err::Error;
use cedar_policy_symcc::solver::LocalSolver;
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicy, CompiledPolicySet, Env};
use tokio::process::Command;

use crate::find::Solver;

/// How much longer than the solver's own limit its answer is waited for: starting it, and reading a model.
const GRACE: Duration = Duration::from_secs(10);

/// What is asked of the solver. Each asks for an input, and none means: for every well-formed input, it is as it should be.
pub(crate) enum Question<'a> {
    /// One that both sets allow.
    AllowedByBoth(&'a CompiledPolicySet, &'a CompiledPolicySet),
    /// One that the first allows and the second does not.
    AllowedByFirstOnly(&'a CompiledPolicySet, &'a CompiledPolicySet),
    /// One on which the policy fails.
    Failing(&'a CompiledPolicy),
    /// One that the policy matches.
    Matching(&'a CompiledPolicy),
}

/// A solver that is running, or will be when it is asked.
pub(crate) struct Session<'a> {
    solver: &'a Solver,
    running: Option<CedarSymCompiler<LocalSolver>>,
}

impl<'a> Session<'a> {
    pub(crate) const fn new(solver: &'a Solver) -> Self {
        Self { solver, running: None }
    }

    /// An input as asked for, or none. An error is no answer: it says why there is none.
    pub(crate) async fn ask(&mut self, question: Question<'_>) -> Result<Option<Env>, String> {
        let mut compiler = match self.running.take() {
            Some(compiler) => compiler,
            None => self.start()?,
        };
        let asked = async {
            match question {
                Question::AllowedByBoth(one, other) => {
                    compiler.check_disjoint_with_counterexample_opt(one, other).await
                }
                Question::AllowedByFirstOnly(one, other) => {
                    compiler.check_implies_with_counterexample_opt(one, other).await
                }
                Question::Failing(policy) => compiler.check_never_errors_with_counterexample_opt(policy).await,
                Question::Matching(policy) => compiler.check_never_matches_with_counterexample_opt(policy).await,
            }
        };
        match tokio::time::timeout(self.solver.timeout.saturating_add(GRACE), asked).await {
            Ok(Ok(answer)) => {
                self.running = Some(compiler);
                Ok(answer)
            }
            // Whatever went wrong, what the process would say next may be about this question: the next one gets a new process.
            Ok(Err(Error::SolverUnknown)) => {
                Err(format!("the solver found no answer within {} s", self.solver.timeout.as_secs()))
            }
            Ok(Err(error)) => Err(told(&error)),
            Err(_elapsed) => Err(format!("the solver did not answer within {} s", self.solver.timeout.as_secs())),
        }
    }

    fn start(&self) -> Result<CedarSymCompiler<LocalSolver>, String> {
        let millis = self.solver.timeout.as_millis().max(1);
        let mut command = Command::new(&self.solver.program);
        command.args(&self.solver.arguments).args(["--lang", "smt"]).arg(format!("--tlimit-per={millis}"));
        command.kill_on_drop(true);
        let solver = LocalSolver::from_command(&mut command).map_err(|error| told(&error))?;
        CedarSymCompiler::new(solver).map_err(|error| told(&error))
    }
}

/// An error with its causes.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
