//! Approvals through the public API: who may answer, what a vote binds, what ends a request, and who is told.

mod binding;
mod changing;
mod excluded;
mod glass;
mod races;
mod restraint;
pub mod shared;
mod visibility;
mod votes;
mod watching;
