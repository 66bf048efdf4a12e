//! What was acknowledged is there, whatever became of the process.

mod crash;
mod custody;
mod drain;
mod full;
mod keys;
