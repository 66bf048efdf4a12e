//! The log: what is in it, who reads it, and what of it can be proved.

mod access;
mod damage;
mod export;
mod flood;
mod proofs;
mod records;
mod report;
mod retention;
mod searches;
pub mod tiles;
pub mod witnesses;
