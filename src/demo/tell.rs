//! What the audience reads: each step, who does it, what was answered, and what that means. With `--json`, one line per step.

use std::path::Path;

use countersign_core::visible::Visible;
use serde_json::json;

use super::cast::{AUDIENCE, Cast};
use crate::cli::Failure;
use crate::cli::logcheck::Report;
use crate::cli::output::{BAD, FAINT, GOOD, Output, STRONG, WARN, paint};

/// How an answer is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// It goes on.
    Yes,
    /// It is refused, as it should be.
    No,
    /// It waits.
    Wait,
}

/// Tells the steps, in order.
pub struct Teller<'a> {
    output: &'a mut Output,
    step: u32,
}

impl<'a> Teller<'a> {
    /// Tells to this output.
    pub const fn new(output: &'a mut Output) -> Self {
        Self { output, step: 0 }
    }

    /// Where this plays.
    pub fn opening(&mut self, endpoint: &str, dir: &Path, bundle: &Path) -> Result<(), Failure> {
        let text = format!(
            "{}\n\nAn AI agent works for olivia. It holds no standing rights: each action is asked for when it happens.\n\
             {}\n",
            paint(STRONG, "countersign: may this principal do exactly this, now?"),
            paint(FAINT, format!("server {endpoint}, bundle {}, data {}", bundle.display(), dir.display())),
        );
        self.item(json!({"event": "start", "endpoint": endpoint, "data_dir": dir, "bundle": bundle}), &text)
    }

    /// Begins the next step.
    pub fn step(&mut self, title: &str) -> Result<(), Failure> {
        self.step += 1;
        let text = format!("{} {}", paint(STRONG, format!("{:>2}", self.step)), paint(STRONG, title));
        self.item(json!({"event": "step", "step": self.step, "title": title}), &text)
    }

    /// What was answered. `detail` is shown escaped.
    pub fn answer(&mut self, tone: Tone, answer: &str, detail: &str) -> Result<(), Failure> {
        let style = match tone {
            Tone::Yes => GOOD.bold(),
            Tone::No => BAD,
            Tone::Wait => WARN.bold(),
        };
        let text = format!("     {} {}", paint(style, answer), Visible::new(detail));
        self.item(json!({"event": "answer", "step": self.step, "answer": answer, "detail": detail}), &text)
    }

    /// Something to see, already fit to be shown: indented, line by line.
    pub fn show(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        if self.output.is_json() {
            return Ok(());
        }
        let bar = paint(FAINT, "│");
        let lines: Vec<String> = text.trim_end().lines().map(|line| format!("     {bar} {line}")).collect();
        self.output.human(&format!("     {}\n{}", paint(FAINT, name), lines.join("\n")))
    }

    /// What it means.
    pub fn meaning(&mut self, text: &str) -> Result<(), Failure> {
        if self.output.is_json() {
            return Ok(());
        }
        self.output.human_exact(&format!("     {}\n", paint(FAINT, text)))
    }

    /// What the check of the log found.
    pub fn log(&mut self, report: &Report) -> Result<(), Failure> {
        self.step("Everything above is in a tamper-evident log, which aaron, an auditor, checks record by record")?;
        let tone = if report.ok() { Tone::Yes } else { Tone::No };
        let verdict = if report.ok() { "VERIFIED" } else { "BROKEN" };
        self.answer(tone, verdict, &format!("{} records give the signed root {}", report.records, report.root))?;
        self.meaning("Change one byte of one record, and this step says which.")
    }

    /// The end of the story.
    pub fn closing(&mut self, dir: &Path, keep_serving: bool) -> Result<(), Failure> {
        let mut text = format!(
            "{} one action was decided, approved by two people, executed once, and is provable.\n",
            paint(GOOD.bold(), "Done:")
        );
        if !keep_serving {
            let check = format!("countersign audit verify --data-dir {}", dir.display());
            text.push_str(&paint(FAINT, format!("Check the log once more, without a server: {check}\n")));
        }
        self.item(json!({"event": "done", "ok": true, "data_dir": dir}), &text)
    }

    /// What to try while the server keeps serving. The credentials are of a development server, on loopback only.
    pub fn next(&mut self, endpoint: &str, dir: &Path, ended_session: &str, cast: &Cast) -> Result<(), Failure> {
        let json = json!({
            "event": "serving",
            "endpoint": endpoint,
            "tokens": {
                "agent": cast.agent_token,
                "dana": cast.dana_token,
                "warehouse": cast.warehouse_token,
                "aaron": cast.auditor_token,
            },
        });
        let lines = next_commands(endpoint, dir, ended_session, cast);
        let text =
            format!("{}\n\n{lines}\n{}", paint(STRONG, "Still serving. Try it:"), paint(FAINT, "Stop with Ctrl-C."));
        self.item(json, &text)
    }

    fn item(&mut self, json: serde_json::Value, text: &str) -> Result<(), Failure> {
        if self.output.is_json() { self.output.item(&json, "") } else { self.output.human_exact(text) }
    }
}

/// Lines for a shell.
fn next_commands(endpoint: &str, dir: &Path, ended_session: &str, cast: &Cast) -> String {
    let program =
        std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| quoted(&dir.display().to_string())));
    let path = program.map(|dir| format!("export PATH={dir}:$PATH\n")).unwrap_or_default();
    let start = format!("{path}export COUNTERSIGN_ENDPOINT={endpoint}\n");
    let dir = quoted(&dir.display().to_string());
    let export = format!(
        "export Dataset::customers --audience {AUDIENCE} \\\n  \
         --input '{{\"rows\": 500, \"destination\": \"s3://ours-reports\"}}'"
    );
    format!(
        "# As the agent, in one shell: open a session, ask, and wait for people.\n\
         {start}\
         export COUNTERSIGN_TOKEN={agent}\n\
         export COUNTERSIGN_SESSION=$(countersign session open --purpose 'trying it out' --id-only)\n\
         countersign decide describe Dataset::docs --audience {AUDIENCE}\n\
         countersign decide {export}; echo \"exit code $?\"\n\
         countersign approvals request {export} \\\n  --justification 'I would like to see it' --wait\n\
         # Once two data owners have approved (below): decide again, and keep the capability.\n\
         countersign decide {export} \\\n  --approval APR --mint --json > decision.json\n\
         countersign session show {ended_session}\n\n\
         # As dana, a data owner, in another one: look, and decide. It takes dave too.\n\
         {start}\
         export COUNTERSIGN_TOKEN={dana}\n\
         countersign approvals list --pending\n\
         countersign approvals approve APR\n\
         export COUNTERSIGN_TOKEN=$(countersign dev token dave --data-dir {dir})\n\
         countersign approvals approve APR\n\n\
         # As the warehouse, which spends what the agent was given.\n\
         {start}\
         export COUNTERSIGN_TOKEN={warehouse}\n\
         grep -o 'csn_[A-Za-z0-9_-]*' decision.json | countersign capability redeem - {export}\n\n\
         # As aaron, an auditor.\n\
         {start}\
         export COUNTERSIGN_TOKEN={aaron}\n\
         countersign audit list --full\n\
         countersign audit verify\n",
        agent = cast.agent_token,
        dana = cast.dana_token,
        warehouse = cast.warehouse_token,
        aaron = cast.auditor_token,
    )
}

/// One word for a shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::testing;

    #[test]
    fn the_story_is_numbered_and_readable() {
        let (mut output, out, _) = testing::output(false);
        let mut teller = Teller::new(&mut output);
        teller.step("The agent asks").unwrap();
        teller.answer(Tone::No, "REFUSED", "a\u{1b}[2J").unwrap();
        teller.show("what dana sees", "one\ntwo\n").unwrap();
        teller.meaning("It means this.").unwrap();
        assert_eq!(
            out.text(),
            " 1 The agent asks\n     REFUSED a\\u{1b}[2J\n     what dana sees\n     │ one\n     │ two\n     It means this.\n\n"
        );
    }

    #[test]
    fn programs_get_one_line_per_step() {
        let (mut output, out, _) = testing::output(true);
        let mut teller = Teller::new(&mut output);
        teller.step("The agent asks").unwrap();
        teller.answer(Tone::Yes, "ALLOW", "once").unwrap();
        teller.meaning("It means this.").unwrap();
        let lines: Vec<serde_json::Value> =
            out.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines,
            [
                json!({"event": "step", "step": 1, "title": "The agent asks"}),
                json!({"event": "answer", "step": 1, "answer": "ALLOW", "detail": "once"}),
            ]
        );
    }

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        assert_eq!(quoted("/a b/c'd"), "'/a b/c'\\''d'");
    }
}
