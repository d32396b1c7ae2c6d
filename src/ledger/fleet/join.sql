-- What the hub has yet to publish. `rev` only grows: a task that changes while it is being published gets another
-- one, and stays.
CREATE TABLE IF NOT EXISTS fleet_dirty (
    rev     INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL UNIQUE
) STRICT;
-- The numbers go on, as a database that knows the ledger expects.
DELETE FROM fleet_dirty;

-- An id may be a number in a ledger that was adopted from another program.
CREATE TRIGGER fleet_task_inserted AFTER INSERT ON task_history WHEN NEW.id IS NOT NULL
BEGIN
    DELETE FROM fleet_dirty WHERE task_id = CAST(NEW.id AS TEXT);
    INSERT INTO fleet_dirty (task_id) VALUES (NEW.id);
END;
CREATE TRIGGER fleet_task_updated AFTER UPDATE ON task_history WHEN NEW.id IS NOT NULL
BEGIN
    DELETE FROM fleet_dirty WHERE task_id = CAST(NEW.id AS TEXT);
    INSERT INTO fleet_dirty (task_id) VALUES (NEW.id);
END;
-- Pruning keeps what is not published, and counts only what it removes.
CREATE TRIGGER fleet_task_kept BEFORE DELETE ON task_history
WHEN EXISTS (SELECT 1 FROM fleet_dirty WHERE task_id = CAST(OLD.id AS TEXT))
BEGIN
    SELECT RAISE(IGNORE);
END;
CREATE TRIGGER fleet_transition_inserted AFTER INSERT ON task_transition
BEGIN
    DELETE FROM fleet_dirty WHERE task_id = NEW.task_id;
    INSERT INTO fleet_dirty (task_id) VALUES (NEW.task_id);
END;
CREATE TRIGGER fleet_session_inserted AFTER INSERT ON claude_sdk_sessions WHEN NEW.task_id IS NOT NULL
BEGIN
    DELETE FROM fleet_dirty WHERE task_id = CAST(NEW.task_id AS TEXT);
    INSERT INTO fleet_dirty (task_id) VALUES (NEW.task_id);
END;
CREATE TRIGGER fleet_session_updated AFTER UPDATE OF session_id, provider, task_id ON claude_sdk_sessions
BEGIN
    DELETE FROM fleet_dirty WHERE task_id IN (CAST(OLD.task_id AS TEXT), CAST(NEW.task_id AS TEXT));
    INSERT INTO fleet_dirty (task_id)
    SELECT OLD.task_id WHERE OLD.task_id IS NOT NULL UNION SELECT NEW.task_id WHERE NEW.task_id IS NOT NULL;
END;
CREATE TRIGGER fleet_session_deleted AFTER DELETE ON claude_sdk_sessions WHEN OLD.task_id IS NOT NULL
BEGIN
    DELETE FROM fleet_dirty WHERE task_id = CAST(OLD.task_id AS TEXT);
    INSERT INTO fleet_dirty (task_id) VALUES (OLD.task_id);
END;
CREATE TRIGGER fleet_invalidation_inserted AFTER INSERT ON session_invalidation WHEN NEW.task_id IS NOT NULL
BEGIN
    DELETE FROM fleet_dirty WHERE task_id = NEW.task_id;
    INSERT INTO fleet_dirty (task_id) VALUES (NEW.task_id);
END;
CREATE TRIGGER fleet_invalidation_updated AFTER UPDATE ON session_invalidation WHEN NEW.task_id IS NOT NULL
BEGIN
    DELETE FROM fleet_dirty WHERE task_id = NEW.task_id;
    INSERT INTO fleet_dirty (task_id) VALUES (NEW.task_id);
END;
