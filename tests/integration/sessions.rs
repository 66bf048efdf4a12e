//! Sessions through the public API: opened where policy permits, whoever acts in them, and what their end takes along.

mod children;
mod delegation;
mod ending;
mod opening;
