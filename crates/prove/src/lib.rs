//! Proofs about a bundle of policies.
//!
//! A decision looks at one request. A proof looks at all of them: the policies and a statement are translated into one
//! question about every well-formed request and every well-formed set of entities, and the solver cvc5 answers whether there
//! is a counterexample. If there is, it is replayed on the authorizer that decides; one that does not replay is a fault of
//! ours and told as such, and never a proof.
//!
//! [`properties`] collects what is to be proved, [`find_solver`] finds cvc5, [`prove`] asks. Nothing here decides anything, and
//! nothing that decides needs anything here.

mod counterexample;
mod find;
mod property;
mod prove;
mod session;

pub use counterexample::{Counterexample, Replay, Thing};
pub use find::{Places, Solver, SolverMissing, find_solver};
pub use property::{Property, PropertyError, properties};
pub use prove::{Case, Finding, Proof, Step, Verdict, prove, prove_all};
