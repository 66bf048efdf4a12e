//! Each property against each kind of request that the schema knows.

use std::time::{Duration, Instant};

use cedar_policy::{Policy, PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::{CompiledPolicy, CompiledPolicySet, Env};
use countersign_policy::{Bundle, SetKind};

use crate::counterexample::{Concrete, Counterexample};
use crate::find::Solver;
use crate::property::{Claim, Property, possible};
use crate::session::{Question, Session, told};

/// What came of one property.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    /// The property's id.
    pub property: String,
    /// The policy set that it is about.
    pub set: SetKind,
    /// Each kind of request that the set can be asked about, and the answer for it.
    pub cases: Vec<Case>,
    /// What somebody should look at though it refutes nothing: a statement about nothing, a rule that asks in vain.
    pub warning: Option<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// One kind of request.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The type of its principal.
    pub principal: String,
    /// Its action, by the id.
    pub action: String,
    /// The type of its resource.
    pub resource: String,
    /// Whether the property holds of all requests of this kind.
    pub finding: Finding,
}

/// What was found out about a property and one kind of request.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// It holds of every well-formed request.
    Proved,
    /// It does not hold of this one, as the authorizer confirms.
    Refuted(Box<Counterexample>),
    /// The solver has a counterexample, and the authorizer does not confirm it. A fault of ours, and no proof.
    Unconfirmed {
        /// Why not.
        reason: String,
        /// What the solver found, if it is a request at all.
        counterexample: Option<Box<Counterexample>>,
    },
    /// There is no answer. No proof either.
    Undecided(String),
}

/// What a property came to, over all kinds of requests: the worst of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It holds.
    Proved,
    /// Of some kind it is not known.
    Undecided,
    /// Of some kind there is a counterexample that the authorizer does not confirm.
    Unconfirmed,
    /// It does not hold.
    Refuted,
}

/// How far the proofs have come, told before each property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// The property that is next.
    pub property: &'a str,
    /// How many are done.
    pub done: usize,
    /// How many there are.
    pub total: usize,
}

impl Proof {
    /// What it came to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.cases.iter().map(|case| case.finding.verdict()).max().unwrap_or(Verdict::Proved)
    }
}

impl Finding {
    /// What it comes to.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::Proved => Verdict::Proved,
            Self::Undecided(_) => Verdict::Undecided,
            Self::Unconfirmed { .. } => Verdict::Unconfirmed,
            Self::Refuted(_) => Verdict::Refuted,
        }
    }
}

/// Proves each property of the bundle, or refutes it.
pub async fn prove(
    bundle: &Bundle,
    properties: &[Property],
    solver: &Solver,
    progress: impl FnMut(Step<'_>),
) -> Vec<Proof> {
    Ground::of(bundle).prove(properties, solver, progress).await
}

/// Whether all of them are proved. Ends with the first that is not, and says which; nothing is told but that.
///
/// # Errors
/// The property's id.
pub async fn prove_all(bundle: &Bundle, properties: &[Property], solver: &Solver) -> Result<(), String> {
    let mut session = Session::new(solver);
    let mut ground = Ground::of(bundle);
    for property in properties {
        for kind in ground.kinds.iter_mut().filter(|kind| kind.set == property.set) {
            let finding = kind.examine(&property.claim, ground.schema, &mut session).await;
            if finding.verdict() != Verdict::Proved {
                return Err(property.id.clone());
            }
        }
    }
    Ok(())
}

/// What is proved about: the schema, and for each kind of request the policies that decide it.
struct Ground<'a> {
    schema: &'a Schema,
    kinds: Vec<Kind>,
}

/// One kind of request.
struct Kind {
    set: SetKind,
    env: RequestEnv,
    policies: PolicySet,
    /// The policies as the solver reads them, made when they are first needed.
    compiled: Option<Result<CompiledPolicySet, String>>,
}

impl<'a> Ground<'a> {
    fn of(bundle: &'a Bundle) -> Self {
        let mut kinds = Vec::new();
        for slice in bundle.slices() {
            for env in bundle.schema().request_envs().filter(|env| env.action() == slice.action) {
                kinds.push(Kind { set: slice.set, env, policies: (*slice.policies).clone(), compiled: None });
            }
        }
        let name = |kind: &Kind| {
            let Case { principal, action, resource, finding: _ } = kind.case(Finding::Proved);
            (action, resource, principal)
        };
        kinds.sort_by_key(name);
        Self { schema: bundle.schema(), kinds }
    }

    async fn prove(
        &mut self,
        properties: &[Property],
        solver: &Solver,
        mut progress: impl FnMut(Step<'_>),
    ) -> Vec<Proof> {
        let mut session = Session::new(solver);
        let mut proofs = Vec::new();
        for property in properties {
            progress(Step { property: &property.id, done: proofs.len(), total: properties.len() });
            let began = Instant::now();
            let mut cases = Vec::new();
            for kind in self.kinds.iter_mut().filter(|kind| kind.set == property.set) {
                let finding = kind.examine(&property.claim, self.schema, &mut session).await;
                cases.push(kind.case(finding));
            }
            let mut proof = Proof {
                property: property.id.clone(),
                set: property.set,
                cases,
                warning: None,
                elapsed: began.elapsed(),
            };
            if proof.verdict() == Verdict::Proved {
                proof.warning = self.vacuous(property, &mut session).await;
                proof.elapsed = began.elapsed();
            }
            proofs.push(proof);
        }
        proofs
    }

    /// What is true only because it says nothing is worth a remark.
    async fn vacuous(&mut self, property: &Property, session: &mut Session<'_>) -> Option<String> {
        let vain = match &property.claim {
            Claim::Never(matched) | Claim::Always(matched) if property.stated_at.is_some() => {
                self.nowhere(property.set, matched, false, session).await.map(|nowhere| {
                    nowhere.then(|| "it matches no request, so it says nothing".to_owned())
                })
            }
            Claim::Guard { missing, given } => match self.nowhere(property.set, given, true, session).await {
                Ok(false) => Ok(None),
                Ok(true) => self.nowhere(property.set, missing, false, session).await.map(|nowhere| {
                    Some(if nowhere {
                        "the rule can never fire: it matches no request".to_owned()
                    } else {
                        "the rule can never fire: what it matches is not allowed even with its approval, so it never asks"
                            .to_owned()
                    })
                }),
                Err(reason) => Err(reason),
            },
            Claim::Never(_) | Claim::Always(_) | Claim::NoFailure => return None,
        };
        vain.unwrap_or_else(|reason| Some(format!("whether it ever applies is not known: {reason}")))
    }

    /// Whether no request is matched; with `allowed`, none that is allowed.
    async fn nowhere(
        &mut self,
        set: SetKind,
        matched: &Policy,
        allowed: bool,
        session: &mut Session<'_>,
    ) -> Result<bool, String> {
        for kind in self.kinds.iter_mut().filter(|kind| kind.set == set) {
            let policy = kind.compile(matched, self.schema)?;
            let found = if allowed {
                let matched = policy.into_compiled_policyset();
                session.ask(Question::AllowedByBoth(kind.decided(self.schema)?, &matched)).await?
            } else {
                session.ask(Question::Matching(&policy)).await?
            };
            if found.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Kind {
    fn case(&self, finding: Finding) -> Case {
        Case {
            principal: self.env.principal().to_string(),
            action: self.env.action().id().unescaped().to_owned(),
            resource: self.env.resource().to_string(),
            finding,
        }
    }

    async fn examine(&mut self, claim: &Claim, schema: &Schema, session: &mut Session<'_>) -> Finding {
        let examined = match claim {
            Claim::Never(matched) | Claim::Guard { missing: matched, .. } => {
                self.allowed_where(matched, true, schema, session).await
            }
            Claim::Always(matched) => self.allowed_where(matched, false, schema, session).await,
            Claim::NoFailure => self.failing(schema, session).await,
        };
        examined.unwrap_or_else(Finding::Undecided)
    }

    /// Looks for a request that is matched and decided the other way: allowed if it is `forbidden`, and refused if it is not.
    async fn allowed_where(
        &mut self,
        matched: &Policy,
        forbidden: bool,
        schema: &Schema,
        session: &mut Session<'_>,
    ) -> Result<Finding, String> {
        let compiled = self.compile(matched, schema)?;
        // A statement that fails says nothing where it fails, and would pass for true there.
        if let Some(found) = session.ask(Question::Failing(&compiled)).await? {
            return Ok(self.confirm(&found, schema, |concrete| {
                let statement = PolicySet::from_policies([matched.clone()]).unwrap_or_default();
                let failed = concrete.replay(&statement).failed;
                (!failed.is_empty()).then_some(failed)
            }));
        }
        let matching = compiled.into_compiled_policyset();
        let decided = self.decided(schema)?;
        let question = if forbidden {
            Question::AllowedByBoth(decided, &matching)
        } else {
            Question::AllowedByFirstOnly(&matching, decided)
        };
        let Some(found) = session.ask(question).await? else {
            return Ok(Finding::Proved);
        };
        Ok(self.confirm(&found, schema, |concrete| {
            let statement = PolicySet::from_policies([matched.clone()]).unwrap_or_default();
            let matched = concrete.replay(&statement).allowed;
            (matched && concrete.replay(&self.policies).allowed == forbidden).then(Vec::new)
        }))
    }

    /// Looks for a request on which a policy fails.
    async fn failing(&self, schema: &Schema, session: &mut Session<'_>) -> Result<Finding, String> {
        let mut policies: Vec<&Policy> = self.policies.policies().collect();
        policies.sort_by_key(|policy| policy.id().to_string());
        for policy in policies {
            let compiled = self.compile(&possible(policy, policy.effect())?, schema)?;
            if let Some(found) = session.ask(Question::Failing(&compiled)).await? {
                let id = policy.id().to_string();
                return Ok(self.confirm(&found, schema, |concrete| {
                    concrete.replay(&self.policies).failed.contains(&id).then(|| vec![id.clone()])
                }));
            }
        }
        Ok(Finding::Proved)
    }

    /// A counterexample counts once the authorizer shows it. `refutes` gives the policies that fail, if that is what it shows.
    fn confirm(&self, found: &Env, schema: &Schema, refutes: impl FnOnce(&Concrete) -> Option<Vec<String>>) -> Finding {
        let concrete = match Concrete::new(found, schema) {
            Ok(concrete) => concrete,
            Err(error) => {
                let reason = format!("the solver's counterexample is no request that the schema accepts: {error}");
                return Finding::Unconfirmed { reason, counterexample: None };
            }
        };
        let replay = concrete.replay(&self.policies);
        match refutes(&concrete) {
            Some(failing) => Finding::Refuted(Box::new(concrete.told(failing, replay))),
            None => Finding::Unconfirmed {
                reason: "the authorizer does not decide the solver's counterexample as the solver says".into(),
                counterexample: Some(Box::new(concrete.told(Vec::new(), replay))),
            },
        }
    }

    fn compile(&self, policy: &Policy, schema: &Schema) -> Result<CompiledPolicy, String> {
        CompiledPolicy::compile(policy, &self.env, schema)
            .map_err(|error| format!("`{}` cannot be analysed: {}", policy.id(), told(&error)))
    }

    fn decided(&mut self, schema: &Schema) -> Result<&CompiledPolicySet, String> {
        let compile = || {
            CompiledPolicySet::compile(&self.policies, &self.env, schema)
                .map_err(|error| format!("the policies cannot be analysed: {}", told(&error)))
        };
        self.compiled.get_or_insert_with(compile).as_ref().map_err(Clone::clone)
    }
}

#[cfg(test)]
mod tests;
