//! The agents of npm: the environment and the files with which each uses no network but loopback, and what
//! each reports.

use super::NpmAgent;
use crate::harness::End;

pub const CODEX: NpmAgent = NpmAgent {
    name: "codex",
    options: &["exec", "--json", "--skip-git-repo-check", "-m", "m"],
    prompt: &["hello"],
    environment: &[("OPENAI_API_KEY", "dummy")],
    files: &[(
        ".codex/config.toml",
        r#"
            model_provider = "fake"
            approval_policy = "never"
            sandbox_mode = "danger-full-access"
            check_for_update_on_startup = false
            [analytics]
            enabled = false
            [model_providers.fake]
            name = "fake"
            base_url = "http://127.0.0.1:{port}/v1"
            env_key = "OPENAI_API_KEY"
            wire_api = "responses"
        "#,
    )],
    model: "m",
    tokens: true,
    cost: None,
    tool: Some("command_execution"),
    resume: &["resume", "{id}"],
    fork: Some(&["fork", "{id}"]),
    unknown: "00000000-0000-4000-8000-000000000000",
    codes: [1, 1],
    stopped: End::Signal(15),
    transcripts: Some(".codex/sessions"),
};

pub const GEMINI: NpmAgent = NpmAgent {
    name: "gemini",
    options: &["-m", "gemini-2.5-flash", "-o", "stream-json", "-y"],
    prompt: &["-p", "hello"],
    environment: &[("GEMINI_API_KEY", "dummy"), ("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:{port}")],
    files: &[(
        ".gemini/settings.json",
        r#"{
            "general": { "enableAutoUpdate": false },
            "privacy": { "usageStatisticsEnabled": false },
            "security": { "auth": { "selectedType": "gemini-api-key" }, "folderTrust": { "enabled": false } }
        }"#,
    )],
    model: "gemini-2.5-flash",
    tokens: true,
    cost: None,
    tool: Some("run_shell_command"),
    resume: &["--resume", "{id}"],
    fork: None,
    unknown: "00000000-0000-4000-8000-000000000000",
    codes: [144, 42],
    stopped: End::Code(0),
    transcripts: Some(".gemini/tmp"),
};

pub const OPENCODE: NpmAgent = NpmAgent {
    name: "opencode",
    options: &["run", "--format", "json", "-m", "fake/m"],
    prompt: &["hello"],
    environment: &[
        ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
        ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
        // It installs the package of its plugins from npm.
        ("npm_config_registry", "http://127.0.0.1:9/"),
        ("npm_config_fetch_retries", "0"),
    ],
    files: &[(
        ".config/opencode/opencode.json",
        r#"{
            "permission": "allow",
            "snapshot": false,
            "share": "disabled",
            "provider": {
                "fake": {
                    "npm": "@ai-sdk/openai-compatible",
                    "options": { "baseURL": "http://127.0.0.1:{port}/v1", "apiKey": "dummy" },
                    "models": { "m": { "cost": { "input": 1, "output": 2, "cache_read": 1 } } }
                }
            }
        }"#,
    )],
    model: "fake/m",
    tokens: true,
    // 90 and 10 tokens at 1 dollar a million, 20 at 2 dollars.
    cost: Some(0.00014),
    tool: None,
    resume: &["--session", "{id}"],
    fork: Some(&["--session", "{id}", "--fork"]),
    unknown: "ses_000000000000nope",
    codes: [1, 1],
    stopped: End::Signal(15),
    transcripts: None,
};

pub const QWEN: NpmAgent = NpmAgent {
    name: "qwen",
    options: &["-o", "stream-json", "-y"],
    prompt: &["-p", "hello"],
    environment: &[
        ("OPENAI_API_KEY", "dummy"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:{port}/v1"),
        ("OPENAI_MODEL", "m"),
        ("QWEN_CODE_SUPPRESS_YOLO_WARNING", "1"),
    ],
    files: &[(
        ".qwen/settings.json",
        // With its memory, each run asks the API once more.
        r#"{
            "general": { "enableAutoUpdate": false },
            "memory": { "enableManagedAutoMemory": false },
            "privacy": { "usageStatisticsEnabled": false }
        }"#,
    )],
    model: "m",
    tokens: true,
    cost: None,
    tool: Some("run_shell_command"),
    resume: &["--resume", "{id}"],
    fork: Some(&["--resume", "{id}", "--fork-session"]),
    unknown: "00000000-0000-4000-8000-000000000000",
    codes: [1, 1],
    stopped: End::Signal(15),
    transcripts: Some(".qwen/projects"),
};

pub const COPILOT: NpmAgent = NpmAgent {
    name: "copilot",
    options: &["--output-format", "json", "--allow-all"],
    prompt: &["-p", "hello"],
    environment: &[
        ("COPILOT_MODEL", "m"),
        ("COPILOT_OFFLINE", "true"),
        ("COPILOT_PROVIDER_BASE_URL", "http://127.0.0.1:{port}/v1"),
    ],
    files: &[],
    model: "m",
    tokens: false,
    cost: None,
    tool: Some("bash"),
    resume: &["--resume={id}"],
    fork: None,
    unknown: "00000000-0000-4000-8000-000000000000",
    codes: [1, 1],
    stopped: End::Signal(15),
    transcripts: Some(".copilot/session-state"),
};
