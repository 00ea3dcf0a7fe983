-- By which generation of its group a partition was taken over, where the broker counts them: a
-- process that lives is not overtaken by a lower one.

ALTER TABLE choreo.owner ADD COLUMN generation integer NOT NULL DEFAULT -1;  -- -1: not counted
