//! The `countersign` command.

mod cli;
mod demo;

/// Requests are many small allocations on few threads, which the system's allocator spends a seventh of the processor on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run(std::env::args_os())
}
