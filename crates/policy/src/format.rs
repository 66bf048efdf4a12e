//! One layout for policies.

use cedar_policy_formatter::{Config, policies_str_to_pretty};

use crate::finding::{Finding, from_cedar};

/// As wide as the rest of the repository.
const WIDTH: usize = 120;

/// The text of a policy file in the one layout, comments kept.
///
/// # Errors
/// What hinders reading it, with its place.
pub fn format(file: &str, text: &str) -> Result<String, Vec<Finding>> {
    if let Err(errors) = text.parse::<cedar_policy::PolicySet>() {
        return Err(errors.iter().map(|error| from_cedar(file, text, error)).collect());
    }
    if text.trim().is_empty() {
        return Ok(String::new());
    }
    // The formatter itself refuses a result that would mean something else.
    policies_str_to_pretty(text, &Config { line_width: WIDTH, indent_width: 2 })
        .map_err(|error| vec![Finding::error(file, error.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formatted_file_stays_as_it_is_and_keeps_its_comments() {
        let text = "// why\n@id(\"a\")permit(principal,action,resource)when{context.now.hour<8}; // and how\n";
        let once = format("a.cedar", text).unwrap();
        assert!(once.contains("// why") && once.contains("// and how"), "{once}");
        assert_eq!(format("a.cedar", &once).unwrap(), once);
    }

    #[test]
    fn what_is_no_policy_is_told_with_its_place() {
        let findings = format("a.cedar", "permit (principal, action, resource);\npermit (").unwrap_err();
        assert_eq!(findings.first().unwrap().line, 2, "{findings:?}");
    }
}
