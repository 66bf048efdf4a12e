//! Capabilities through the public API: spent once, for exactly what was decided, and by nothing that looks like one.

mod ending;
mod exact;
mod forged;
mod holder;
mod once;
mod outcomes;
mod revoking;
mod tokens;
