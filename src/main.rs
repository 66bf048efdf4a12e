//! The `countersign` command.

mod cli;
mod demo;

fn main() -> std::process::ExitCode {
    cli::run(std::env::args_os())
}
