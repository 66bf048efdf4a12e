//! The log: what is in it, who reads it, and what of it can be proved.

mod damage;
mod flood;
mod proofs;
mod records;
mod searches;
mod tiles;
mod witnesses;
