"""The root of the error tree. A message names the thing, the path inside it, and what would be right; commands print it as it is."""


class MeshagentError(Exception):
    """An error that is somebody's to mend. Anything else that is raised is a defect of ours and shows its traceback."""
