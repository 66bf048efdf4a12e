//! Approvals through the public API: who may answer, what a vote binds, what ends a request, and who is told.

mod advice;
mod batches;
mod binding;
mod changing;
mod excluded;
mod glass;
mod pre_approved;
mod races;
mod restraint;
pub mod shared;
mod visibility;
mod votes;
mod watching;
