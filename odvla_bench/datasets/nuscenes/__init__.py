"""nuScenes tables, CAN bus and maps as columns; a synthetic nuScenes of any size."""
