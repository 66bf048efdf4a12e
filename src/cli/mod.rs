//! The command line: what can be said, and which module answers.

mod advise;
mod approvals;
mod args;
mod audit;
mod author;
mod batch;
mod break_glass;
mod capability;
mod caution;
mod custody;
mod decide;
pub mod development;
mod diff;
mod entity;
mod evidence;
mod explain;
mod failure;
mod figures;
mod holder;
mod json;
mod keys;
pub mod logcheck;
mod notifications;
mod outcomes;
pub mod output;
mod pages;
mod policy;
mod prove;
mod publish;
mod question;
mod recorded;
mod reviews;
mod revoke;
mod serve;
mod session;
mod sign;
mod signing;
mod start;
mod text;
mod tilecheck;
mod view;
mod vote;
mod when;
mod witness;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use args::Connection;
pub use failure::{Exit, Failure};
use output::{Color, Output};
pub use view::examine;

/// May this principal do exactly this, now? A policy decision and capability minting service for AI agents and CI jobs.
#[derive(Debug, Parser)]
#[command(
    name = "countersign",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, or ALLOW; 1 error; 2 wrong usage; 3 DENY; 4 NEEDS_APPROVAL.\n\n\
                  Examples:\n  \
                  countersign demo                       see one action go from question to evidence\n  \
                  countersign serve --dev --bundle policies/ai-platform\n  \
                  countersign decide describe Dataset::docs --audience warehouse --session SES"
)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    /// Answer in JSON: one document, or one per line where there are many; errors too, on stderr
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    /// When to use colours; NO_COLOR is honoured
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = "Output")]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    #[command(after_help = serve::SERVE_EXAMPLES)]
    Serve(serve::ServeArgs),
    /// Make the data directory of a new service
    #[command(after_help = custody::INIT_EXAMPLES)]
    Init(custody::InitArgs),
    /// Have the server make a backup of its store while it serves
    #[command(after_help = custody::BACKUP_EXAMPLES)]
    Backup(custody::BackupArgs),
    /// Restore a copy of the data directory; everything that was handed out before is dead
    #[command(after_help = custody::RESTORE_EXAMPLES)]
    Restore(custody::RestoreArgs),
    /// Walk one agent session through a server of its own, and show each step
    #[command(after_help = crate::demo::EXAMPLES)]
    Demo(crate::demo::DemoArgs),
    /// Credentials of a development server
    #[command(subcommand)]
    Dev(development::DevCommand),
    /// Ask whether an action may happen now
    #[command(after_help = decide::EXAMPLES)]
    Decide(decide::DecideArgs),
    /// Questions put to people
    #[command(
        subcommand,
        after_help = "Examples:\n  countersign approvals list --pending\n  countersign approvals approve APR"
    )]
    Approvals(approvals::ApprovalsCommand),
    /// Do at once, on record, what people would have to approve
    #[command(after_help = break_glass::EXAMPLES)]
    BreakGlass(break_glass::BreakGlassArgs),
    /// Reviews of broken glass
    #[command(subcommand, after_help = "Examples:\n  countersign reviews list")]
    Reviews(reviews::ReviewsCommand),
    /// Capabilities: spend, complete, revoke, look
    #[command(
        subcommand,
        after_help = "Examples:\n  countersign capability redeem @token describe Dataset::docs --audience warehouse\n  countersign capability complete CAP --outcome succeeded"
    )]
    Capability(capability::CapabilityCommand),
    /// Make worthless what came to be before: of a principal, an operator, a bundle, or everything
    #[command(after_help = revoke::EXAMPLES)]
    Revoke(revoke::RevokeArgs),
    /// The stream of revocations
    #[command(subcommand)]
    Revocations(revoke::RevocationsCommand),
    /// Outcomes that nobody reported in time
    #[command(subcommand, after_help = "Examples:\n  countersign outcomes list")]
    Outcomes(outcomes::OutcomesCommand),
    /// Sessions
    #[command(
        subcommand,
        after_help = "Examples:\n  countersign session open --purpose 'nightly load' --id-only\n  countersign session end SES"
    )]
    Session(session::SessionCommand),
    /// Stored entities: groups, persons, resources that change between bundles
    #[command(subcommand, after_help = "Examples:\n  countersign entity list --type Dataset")]
    Entity(entity::EntityCommand),
    /// What is told of approval requests: sinks, and what they did not take
    #[command(subcommand)]
    Notifications(notifications::NotificationsCommand),
    /// Policy bundles
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// The tamper-evident log
    #[command(subcommand, after_help = "Examples:\n  countersign audit list --limit 20\n  countersign audit verify")]
    Audit(audit::AuditCommand),
    /// The evidence of one action: in a file, and checked by a stranger
    #[command(subcommand)]
    Evidence(evidence::EvidenceCommand),
    /// Run a witness of other servers' logs: it cosigns heads that continue those before
    #[command(after_help = witness::EXAMPLES)]
    Witness(witness::WitnessArgs),
    /// The keys that capabilities are signed with
    #[command(subcommand, after_help = "Examples:\n  countersign keys list --json > keys.json")]
    Keys(keys::KeysCommand),
    /// Print the effective configuration, without secrets
    #[command(after_help = serve::CONFIG_EXAMPLES)]
    Config(serve::ConfigArgs),
    /// Print completions for a shell
    #[command(after_help = "Examples:\n  countersign completions bash > /etc/bash_completion.d/countersign\n  \
                            countersign completions zsh > ~/.zfunc/_countersign")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Runs the command that was given.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, args.iter().any(|arg| arg == "--json")).into(),
    };
    let mut output = Output::standard(cli.json, cli.color);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.failure(&Failure::new(format!("cannot start the runtime: {error}")));
            return Exit::Error.into();
        }
    };
    match runtime.block_on(dispatch(cli.command, &cli.connection, &mut output)) {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            failure.exit()
        }
    }
    .into()
}

/// Help and version are answers; everything else that clap says is a usage error.
fn usage(error: &clap::Error, json: bool) -> Exit {
    if error.use_stderr() && json {
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        Output::standard(true, Color::Never).failure(&Failure::usage(text.trim_end()));
    } else {
        // With stdout or stderr gone there is nobody to tell.
        let _ = error.print();
    }
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}

async fn dispatch(command: Command, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        Command::Serve(args) => serve::serve(args).await,
        Command::Init(args) => custody::init(args, output).await,
        Command::Backup(args) => custody::backup(args, connection, output).await,
        Command::Restore(args) => custody::restore(args, output).await,
        Command::Demo(args) => crate::demo::run(args, output).await,
        Command::Dev(command) => development::run(command, output),
        Command::Decide(args) => decide::run(args, connection, output).await,
        Command::Approvals(command) => approvals::run(command, connection, output).await,
        Command::BreakGlass(args) => break_glass::run(args, connection, output).await,
        Command::Reviews(command) => reviews::run(command, connection, output).await,
        Command::Capability(command) => capability::run(command, connection, output).await,
        Command::Revoke(args) => revoke::run(args, connection, output).await,
        Command::Revocations(command) => revoke::watch(command, connection, output).await,
        Command::Outcomes(command) => outcomes::run(command, connection, output).await,
        Command::Session(command) => session::run(command, connection, output).await,
        Command::Entity(command) => entity::run(command, connection, output).await,
        Command::Notifications(command) => notifications::run(command, connection, output).await,
        Command::Policy(command) => policy::run(command, connection, output).await,
        Command::Audit(command) => audit::run(command, connection, output).await,
        Command::Evidence(command) => evidence::run(command, connection, output).await,
        Command::Witness(args) => witness::run(args, output).await,
        Command::Keys(command) => keys::run(command, connection, output).await,
        Command::Config(args) => serve::config(&args, output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "countersign", &mut script);
            output.raw(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn each_control_is_evidenced_by_a_command_that_there_is() {
        let text = include_str!("../../docs/controls.md");
        let commands: Vec<&str> = text.split('`').filter(|part| part.starts_with("countersign ")).collect();
        assert!(commands.len() > 10, "{commands:?}");
        for command in commands {
            assert!(parse(command).is_ok(), "{command}");
        }
    }

    #[test]
    fn what_is_told_of_searches_parses() {
        let text = include_str!("../../docs/auditing.md");
        let quoted = text.split('`').filter(|part| part.starts_with("countersign ") && part.split(' ').count() > 3);
        let blocks =
            text.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| line.starts_with("countersign "));
        let commands: Vec<&str> = quoted.chain(blocks).collect();
        assert!(commands.len() > 9, "{commands:?}");
        for command in commands {
            assert!(parse(command).is_ok(), "{command}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty() && !about.contains('\n'), "{path}: {about:?}");
            let leaf = command.get_subcommands().next().is_none();
            assert!(!leaf || command.get_after_help().is_some(), "{path} has no examples");
            command.get_subcommands().for_each(|sub| check(sub, &path));
        }
        check(&Cli::command(), "");
    }

    #[test]
    fn every_example_parses() {
        fn collect(command: &clap::Command, examples: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let help = help.replace("\\\n    ", "");
            examples.extend(help.lines().map(str::trim).filter(|l| l.starts_with("countersign ")).map(str::to_owned));
            command.get_subcommands().for_each(|sub| collect(sub, examples));
        }
        let mut examples = Vec::new();
        collect(&Cli::command(), &mut examples);
        assert!(examples.len() > 20, "{examples:?}");
        for example in examples {
            // As a shell would, for the quotes that the examples use; remarks stand behind two spaces.
            let line = example.split("   ").next().unwrap().split(" > ").next().unwrap();
            let words = line.split('\'').enumerate().flat_map(|(i, part)| {
                if i % 2 == 1 { vec![part.to_owned()] } else { part.split_whitespace().map(str::to_owned).collect() }
            });
            if let Err(error) = Cli::try_parse_from(words) {
                assert!(!error.use_stderr(), "{example}: {error}");
            }
        }
    }

    #[test]
    fn a_capability_is_never_taken_for_the_callers_credential() {
        for command in ["redeem csn_secret export Dataset::d --audience a", "verify csn_secret"] {
            let cli = parse(&format!("countersign capability {command}")).unwrap();
            assert_eq!(cli.connection.token, None, "{command}");
        }
    }

    #[test]
    fn usage_errors_and_help_have_their_own_codes() {
        assert_eq!(usage(&parse("countersign nonsense").unwrap_err(), true), Exit::Usage);
        assert_eq!(usage(&parse("countersign --version").unwrap_err(), false), Exit::Done);
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let cli = parse("countersign session list --json --color never --endpoint http://127.0.0.1:1").unwrap();
        assert!(cli.json && cli.color == Color::Never);
        assert_eq!(cli.connection.endpoint, "http://127.0.0.1:1");
        assert!(parse("countersign session list --token a --token-file b").is_err());
    }
}
