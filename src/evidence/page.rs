//! Checked evidence as a page that prints: no script, nothing fetched, everything escaped.

use super::check::{Outcome, Verdict};
use crate::html::escaped;

/// The page.
#[must_use]
pub fn html(outcome: &Outcome) -> String {
    let head = outcome.head();
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Evidence of {subject}</title>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <style>body{{font:11pt/1.4 serif;max-width:50em;margin:2em auto}}td{{vertical-align:top;padding:.2em .8em .2em 0;\
         overflow-wrap:anywhere}}li{{overflow-wrap:anywhere;break-inside:avoid}}</style></head>\n\
         <body><h1>Evidence of {subject}</h1>\n<p><strong>{head}.</strong></p>\n<h2>Checks</h2>\n<table>\n",
        subject = escaped(&outcome.subject)
    );
    for finding in &outcome.findings {
        let verdict = match finding.verdict {
            Verdict::Holds => "holds",
            Verdict::Refused => "REFUSED",
            Verdict::NotChecked => "not checked",
        };
        let (what, detail) = (escaped(&finding.what), escaped(&finding.detail));
        page.push_str(&format!("<tr><td><strong>{verdict}</strong></td><td>{what}</td><td>{detail}</td></tr>\n"));
    }
    page.push_str("</table>\n<h2>What happened</h2>\n<ol>\n");
    for line in &outcome.story {
        page.push_str(&format!("<li>{}</li>\n", escaped(line)));
    }
    page.push_str("</ol>\n</body></html>\n");
    page
}
