//! Who is believed, and what a credential can do.

mod answering;
mod discovery;
mod forgery;
mod paths;
mod provider;
mod reload;
mod starting;
mod tenants;
mod voting;
mod workloads;
