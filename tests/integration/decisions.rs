//! What is decided, on what, and what is refused without being decided.

mod answers;
mod bundles;
mod deadlines;
mod entities;
mod input;
mod repeats;
mod secrets;
